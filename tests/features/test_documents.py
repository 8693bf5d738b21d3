"""Ages, likeness and popularity of page and promoted document against plain loops."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.rates_reference import main_labels

DAY_MS = 86_400_000


def signed_log(later: int | None, earlier: int | None) -> float | None:
    if later is None or earlier is None:
        return None
    days = (later - earlier) / DAY_MS
    return math.copysign(math.log1p(abs(days)), days)


def test_documents(
    values_of: Callable[..., Any], sparse: tuple[Path, Path], documents: dict[int, dict[str, Any]]
) -> None:
    known = {name: {d: row[f"{name}_id"] for d, row in documents.items()} for name in ("source", "publisher")}
    known["category"] = main_labels(sparse[0] / "documents_categories.parquet", "category")
    known["topic"] = main_labels(sparse[0] / "documents_topics.parquet", "topic")
    published = {d: row["publish_time"] for d, row in documents.items()}
    views: dict[int, Counter[int]] = defaultdict(Counter)
    for row in pq.read_table(sparse[0] / "document_views.parquet").to_pylist():
        views[row["document_id"]][row["day"]] += row["views"]
    met: dict[str, set[Any]] = defaultdict(set)
    for rows, found in values_of("documents").values():
        for row, values in zip(rows, found, strict=True):
            page, ad, time = row["document_id"], row["ad_document_id"], row["timestamp"]
            wanted = {
                "page_age": signed_log(time, published.get(page)),
                "ad_age": signed_log(time, published.get(ad)),
                "page_ad_age": signed_log(published.get(ad), published.get(page)),
            }
            for side, document in (("page", page), ("ad", ad)):
                before = 0 if time is None else sum(n for d, n in views[document].items() if d < time // DAY_MS)
                wanted[f"{side}_views_before"] = math.log1p(before)
                met[side].add(before > 0)
            for name, value in wanted.items():
                if value is None:
                    assert values[name] is None, (name, row)
                else:
                    assert values[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (name, row)
                met[name].add(value and value > 0)
            for name, of in known.items():
                pair = (of.get(page), of.get(ad))
                same = None if None in pair else int(pair[0] == pair[1])
                assert values[f"same_{name}"] == same, (name, row)
                met[f"same_{name}"].add(same)
    assert met["page_age"] == {None, True, False}
    assert met["page"] == met["ad"] == {True, False}
    assert met["same_topic"] == met["same_category"] == met["same_publisher"] == {None, 0, 1}
