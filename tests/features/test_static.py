"""Ids, topics, hours and regions against plain loops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

DAY_MS, HOUR_MS = 86_400_000, 3_600_000


def test_context(values_of: Callable[..., Any]) -> None:
    for rows, found in values_of("context").values():
        for row, values in zip(rows, found, strict=True):
            time = row["timestamp"]
            expected = {name: row[name] for name in ("platform", "country", "dma")} | {
                "hour": None if time is None else time // HOUR_MS % 24,
                "daypart": None if time is None else time // HOUR_MS % 24 // 4,
                "weekday": None if time is None else time // DAY_MS % 7,
                "region": None if row["state"] is None else f"{row['country']}>{row['state']}",
            }
            assert {name: values[name] for name in expected} == expected, row


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
                    hidden = side == "page" and not row["first"]  # a display's lists stand in its first row alone
                    expected[f"{side}_{subject}"] = (
                        None if hidden else pairs and sorted(pairs, key=lambda pair: pair["id"])
                    )
            unknown += row["document_id"] is None
            assert {name: values[name] for name in expected} == expected, row
            assert set(values) == {*expected, "row", "first"}
    assert unknown > 100


def test_entities(values_of: Callable[..., Any], sparse: tuple[Path, Path]) -> None:
    """A text becomes its place among all that are named."""
    named: dict[int, list[dict[str, Any]]] = defaultdict(list)
    listed = pq.read_table(sparse[0] / "documents_entities.parquet").to_pylist()
    places = {name: place for place, name in enumerate(sorted({row["entity_id"] for row in listed}))}
    for row in listed:
        named[row["document_id"]].append({"id": places[row["entity_id"]], "weight": row["confidence_level"]})
    met = set()
    for rows, found in values_of("entities").values():
        for row, values in zip(rows, found, strict=True):
            for name, key in (("page_entity", "document_id"), ("ad_entity", "ad_document_id")):
                hidden = name == "page_entity" and not row["first"]
                pairs = None if hidden else named.get(row[key])
                assert values[name] == (pairs and sorted(pairs, key=lambda pair: pair["id"])), row
                met.add((name, pairs is None))
    assert len(met) == 4
