"""Shares of what a user views, against plain loops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

Weights = dict[int, int]
TABLES = {"category": "documents_categories", "topic": "documents_topics"}


def shares(documents: list[int], about: dict[int, Weights]) -> dict[int, float]:
    """id -> share of all confidences, from a fiftieth up."""
    found: Weights = defaultdict(int)
    for document in documents:
        for subject, confidence in about[document].items():
            found[subject] += confidence
    total = sum(found.values())
    return {subject: weight / total for subject, weight in found.items() if weight * 50 >= total}


@pytest.mark.parametrize("subject", TABLES)
def test_interests(values_of: Callable[..., Any], sparse: tuple[Path, Path], tmp_path: Path, subject: str) -> None:
    about: dict[int, Weights] = defaultdict(dict)
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
                assert {pair["id"]: pair["weight"] for pair in bag} == pytest.approx(shares(read, about), abs=1e-6)
            longer += len(after[row["display_id"]]) > 0
    assert longer > 300
