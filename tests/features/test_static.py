"""Ids, topics, hours, regions and ages against plain loops."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

DAY_MS, HOUR_MS = 86_400_000, 3_600_000


@pytest.fixture(scope="session")
def documents(sparse: tuple[Path, Path]) -> dict[int, dict[str, Any]]:
    """What is known of each document."""
    return {row["document_id"]: row for row in pq.read_table(sparse[0] / "documents_meta.parquet").to_pylist()}


def age(timestamp: int | None, published: int | None) -> float | None:
    if timestamp is None or published is None:
        return None
    days = (timestamp - published) / DAY_MS
    return math.copysign(math.log1p(abs(days)), days)


def test_context(values_of: Callable[..., Any], documents: dict[int, dict[str, Any]]) -> None:
    signs = set()
    for rows, found in values_of("context").values():
        for row, values in zip(rows, found, strict=True):
            time = row["timestamp"]
            expected = {name: row[name] for name in ("platform", "country", "dma")} | {
                "hour": None if time is None else time // HOUR_MS % 24,
                "weekday": None if time is None else time // DAY_MS % 7,
                "region": None if row["state"] is None else f"{row['country']}>{row['state']}",
            }
            assert {name: values[name] for name in expected} == expected, row
            for side, key in (("page", "document_id"), ("ad", "ad_document_id")):
                wanted = age(time, documents.get(row[key], {}).get("publish_time"))
                if wanted is None:
                    assert values[f"{side}_age"] is None, row
                else:
                    assert values[f"{side}_age"] == pytest.approx(wanted, rel=1e-5, abs=1e-6), row
                signs.add(None if wanted is None else wanted > 0)
    assert signs == {None, False, True}, "the world should hold unknown ages and documents published after the display"


def test_ids(values_of: Callable[..., Any], sparse: tuple[Path, Path], documents: dict[int, dict[str, Any]]) -> None:
    about: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for name, table in (("category", "documents_categories"), ("topic", "documents_topics")):
        about[name] = defaultdict(list)
        for row in pq.read_table(sparse[0] / f"{table}.parquet").to_pylist():
            about[name][row["document_id"]].append({"id": row[f"{name}_id"], "weight": row["confidence_level"]})
        assert max(len(pairs) for pairs in about[name].values()) > 1
    unknown = 0
    for rows, found in values_of("ids").values():
        for row, values in zip(rows, found, strict=True):
            names = ("ad_id", "ad_document_id", "campaign_id", "advertiser_id", "user_id")
            expected = {name: row[name] for name in names} | {"page_id": row["document_id"]}
            for side, key in (("page", "document_id"), ("ad", "ad_document_id")):
                document = documents.get(row[key], {})
                for name in ("source_id", "publisher_id"):
                    expected[f"{side}_{name}"] = document.get(name)
                for subject, of in about.items():
                    pairs = of.get(row[key])
                    expected[f"{side}_{subject}"] = pairs and sorted(pairs, key=lambda pair: pair["id"])
            unknown += row["document_id"] is None
            assert {name: values[name] for name in expected} == expected, row
            assert set(values) == {*expected, "row", "first"}
    assert unknown > 100
