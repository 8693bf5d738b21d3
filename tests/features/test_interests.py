"""Weights of what a user views, against plain loops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

Confidences = dict[int, int]
TABLES = {"category": "documents_categories", "topic": "documents_topics"}


def weights(documents: list[int], about: dict[int, Confidences]) -> dict[int, float]:
    """id -> cube of how often it is met over how often the most frequent one is, from a quarter up."""
    found: Confidences = defaultdict(int)
    for document in documents:
        for subject, confidence in about[document].items():
            found[subject] += confidence
    most = max(found.values(), default=0)
    return {subject: (times / most) ** 3 for subject, times in found.items() if times and times * 4 >= most}


@pytest.mark.parametrize("subject", TABLES)
def test_interests(values_of: Callable[..., Any], sparse: tuple[Path, Path], tmp_path: Path, subject: str) -> None:
    about: dict[int, Confidences] = defaultdict(dict)
    for row in pq.read_table(sparse[0] / f"{TABLES[subject]}.parquet").to_pylist():
        about[row["document_id"]][row[f"{subject}_id"]] = round(row["confidence_level"] * 10_000)
    promoted = set(pq.read_table(sparse[0] / "promoted_content.parquet")["document_id"].to_pylist())
    longer = 0
    for part, (rows, found) in values_of("interests").items():
        before, after = defaultdict(list), defaultdict(list)
        for view in pq.read_table(tmp_path / "views" / f"{part}.parquet").to_pylist():
            if view["delay"] < 0:
                before[view["display_id"]].append(view["document_id"])
            elif view["document_id"] not in promoted:
                after[view["display_id"]].append(view["document_id"])
        for row, values in zip(rows[:6000], found, strict=False):
            if not row["first"]:
                continue
            pages = [row["document_id"]] if row["document_id"] is not None else []
            pages += before[row["display_id"]]
            for name, read in (("interest", pages), ("profile", pages + after[row["display_id"]])):
                bag = values[f"{name}_{subject}"] or []
                assert [pair["id"] for pair in bag] == sorted(pair["id"] for pair in bag)
                assert {pair["id"]: pair["weight"] for pair in bag} == pytest.approx(weights(read, about), abs=1e-6)
            longer += len(after[row["display_id"]]) > 0
    assert longer > 300
