"""Crosses of a user's interest with what is shown, against plain loops."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.rates_reference import Rows, clicks_and_expected, grouped

SUBJECTS = {"category": "documents_categories", "topic": "documents_topics"}


def main_subjects(table: Path, subject: str) -> dict[int, int]:
    """document_id -> its surest category (or topic)."""
    best: dict[int, tuple[float, int]] = {}
    for row in pq.read_table(table).to_pylist():
        candidate = (row["confidence_level"], -row[f"{subject}_id"])
        best[row["document_id"]] = max(best.get(row["document_id"], candidate), candidate)
    return {document: -negative for document, (_, negative) in best.items()}


def interested(rows: Rows, views: Path, main: dict[int, int]) -> list[int | None]:
    """What the user of each row's display meets most on the pages viewed before and on the page itself."""
    read: dict[int, list[int | None]] = defaultdict(list)
    for row in rows:
        if row["first"]:
            read[row["display_id"]].append(row["document_id"])
    for view in pq.read_table(views).to_pylist():
        if view["delay"] < 0:
            read[view["display_id"]].append(view["document_id"])
    found = {}
    for display, documents in read.items():
        times = Counter(main[document] for document in documents if document in main)
        found[display] = min(times, key=lambda subject: (-times[subject], subject)) if times else None
    return [found[row["display_id"]] for row in rows]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_tastes(values_of: Callable[..., Any], sparse: tuple[Path, Path], tmp_path: Path, subject: str) -> None:
    parts = values_of("tastes", folds=5, strength=12.0)
    main = main_subjects(sparse[0] / f"{SUBJECTS[subject]}.parquet", subject)
    described = {}
    for part, (rows, _) in parts.items():
        interests = interested(rows, tmp_path / "views" / f"{part}.parquet", main)
        described[part] = [
            row | {"interest": interest, f"ad_{subject}": main.get(row["ad_document_id"])}
            for row, interest in zip(rows, interests, strict=True)
        ]
    history = described["history"]
    prior = 12.0 * sum(row["clicked"] for row in history) / len(history)
    checked = 0
    for name, key in {
        f"ad_{subject}": f"ad_{subject}",
        "campaign": "campaign_id",
        "advertiser": "advertiser_id",
    }.items():
        alone, crossed = grouped(history, [key]), grouped(history, [key, "interest"])
        for part, (_, found) in parts.items():
            known = {"out_of_fold": part == "history", "folds": 5}
            for at in random.Random(1).sample(range(len(found)), 400):
                row = described[part][at]
                clicks, expected = clicks_and_expected(alone.get((row[key],), []), row, **known)
                lift = (clicks + prior) / (expected + prior)
                clicks, expected = clicks_and_expected(crossed.get((row[key], row["interest"]), []), row, **known)
                wanted = math.log((clicks + prior) / (expected * lift + prior))
                assert found[at][f"{name}_by_{subject}_interest"] == pytest.approx(wanted, rel=1e-5, abs=1e-6), name
                checked += wanted != 0
    assert checked > 1000
