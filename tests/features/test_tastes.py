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

from tests.rates_reference import Rows, clicks_and_expected, grouped, main_labels

TABLES = {"category": "documents_categories", "topic": "documents_topics", "publisher": "documents_meta"}


def favourites(rows: Rows, views: Path, promoted: set[int], main: dict[int, int], read: str) -> list[int | None]:
    """What the user of each row's display meets most on the pages viewed before and on the page itself; as a profile on
    all pages viewed, but for promoted ones after the display."""
    documents: dict[int, list[int | None]] = defaultdict(list)
    for row in rows:
        documents[row["display_id"]] += [row["document_id"]] if row["first"] and read == "interest" else []
    for view in pq.read_table(views).to_pylist():
        if view["delay"] < 0 or (read == "profile" and view["document_id"] not in promoted):
            documents[view["display_id"]].append(view["document_id"])
    found = {}
    for display, viewed in documents.items():
        times = Counter(main[document] for document in viewed if document in main)
        found[display] = min(times, key=lambda label: (-times[label], label)) if times else None
    return [found[row["display_id"]] for row in rows]


@pytest.mark.parametrize(
    ("read", "label"),
    [("interest", "category"), ("interest", "topic"), ("profile", "category"), ("profile", "publisher")],
)
def test_tastes(
    values_of: Callable[..., Any], sparse: tuple[Path, Path], tmp_path: Path, read: str, label: str
) -> None:
    parts = values_of("tastes", folds=5, strength=12.0)
    main = main_labels(sparse[0] / f"{TABLES[label]}.parquet", label)
    promoted = set(pq.read_table(sparse[0] / "promoted_content.parquet")["document_id"].to_pylist())
    described = {}
    for part, (rows, _) in parts.items():
        met = favourites(rows, tmp_path / "views" / f"{part}.parquet", promoted, main, read)
        described[part] = [
            row | {"met": favourite, f"ad_{label}": main.get(row["ad_document_id"])}
            for row, favourite in zip(rows, met, strict=True)
        ]
    history = described["history"]
    prior = 12.0 * sum(row["clicked"] for row in history) / len(history)
    checked = 0
    keys = {"campaign": "campaign_id", "advertiser": "advertiser_id"}
    for name, key in (keys if label == "publisher" else {f"ad_{label}": f"ad_{label}", **keys}).items():
        alone, crossed = grouped(history, [key]), grouped(history, [key, "met"])
        for part, (_, found) in parts.items():
            known = {"out_of_fold": part == "history", "folds": 5}
            for at in random.Random(1).sample(range(len(found)), 400):
                row = described[part][at]
                clicks, expected = clicks_and_expected(alone.get((row[key],), []), row, **known)
                lift = (clicks + prior) / (expected + prior)
                clicks, expected = clicks_and_expected(crossed.get((row[key], row["met"]), []), row, **known)
                wanted = math.log((clicks + prior) / (expected * lift + prior))
                assert found[at][f"{name}_by_{label}_{read}"] == pytest.approx(wanted, rel=1e-5, abs=1e-6), name
                checked += wanted != 0
    assert checked > 500
