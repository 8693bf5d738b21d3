"""Weights of what a user views, against plain loops."""

from __future__ import annotations

from collections import Counter, defaultdict
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
            page = [row["document_id"]] if row["document_id"] is not None else []
            earlier, later = before[row["display_id"]], after[row["display_id"]]
            for name, read in (("interest", page + earlier), ("profile", earlier + later)):
                bag = values[f"{name}_{subject}"] or []
                assert [pair["id"] for pair in bag] == sorted(pair["id"] for pair in bag)
                assert {pair["id"]: pair["weight"] for pair in bag} == pytest.approx(weights(read, about), abs=1e-6)
            longer += len(later) > 0
    assert longer > 300


def test_favourite_publisher(values_of: Callable[..., Any], sparse: tuple[Path, Path], tmp_path: Path) -> None:
    """Of pages viewed on either side, but not of those after it to which clicks lead."""
    publisher = {
        row["document_id"]: row["publisher_id"]
        for row in pq.read_table(sparse[0] / "documents_meta.parquet").to_pylist()
        if row["publisher_id"] is not None
    }
    promoted = set(pq.read_table(sparse[0] / "promoted_content.parquet")["document_id"].to_pylist())
    shared = single = 0
    for part, (rows, found) in values_of("interests").items():
        viewed = defaultdict(list)
        for view in pq.read_table(tmp_path / "views" / f"{part}.parquet").to_pylist():
            if view["delay"] < 0 or view["document_id"] not in promoted:
                viewed[view["display_id"]].append(view["document_id"])
        for row, values in zip(rows[:6000], found, strict=False):
            if not row["first"]:
                continue
            times = Counter(publisher[page] for page in viewed[row["display_id"]] if page in publisher)
            own = sorted(p for p, n in times.items() if n == max(times.values()))
            bag = values["favourite_publisher"] or []
            assert [pair["id"] for pair in bag] == own
            assert [pair["weight"] for pair in bag] == pytest.approx([1 / max(1, len(own))] * len(own))
            shared += len(own) > 1
            single += len(own) == 1 < len(times)
    assert shared > 100
    assert single > 100
