"""Gains of ads at places against plain loops."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rates_reference import KEYS, Rows, clicks_and_expected, grouped, main_labels

SUBJECTS = {"ad_category": "documents_categories", "ad_topic": "documents_topics"}
PLACES = ("publisher", "source", "page", "country", "state", "platform", "daypart")


def placed(rows: Rows, documents: dict[int, dict[str, Any]], main: dict[str, dict[int, int]]) -> Rows:
    """The rows with the places of their displays, and what their ads are most about."""
    result = []
    for row in rows:
        document = documents.get(row["document_id"], {})
        places = {
            "publisher": document.get("publisher_id"),
            "source": document.get("source_id"),
            "page": row["document_id"],
            "country": row["country"],
            "state": row["state"] and (row["country"], row["state"]),
            "platform": row["platform"],
            "daypart": None if row["timestamp"] is None else row["timestamp"] // 14_400_000 % 6,
        }
        result.append(row | places | {key: of.get(row["ad_document_id"]) for key, of in main.items()})
    return result


@pytest.mark.parametrize("smoothing", [{"folds": 5, "strength": 12.0}, {"folds": 2, "strength": 0.5}], ids=str)
def test_gains(
    values_of: Callable[..., Any],
    documents: dict[int, dict[str, Any]],
    sparse: tuple[Path, Path],
    smoothing: dict[str, Any],
) -> None:
    parts = values_of("crosses", **smoothing)
    main = {
        key: main_labels(sparse[0] / f"{table}.parquet", key.removeprefix("ad_")) for key, table in SUBJECTS.items()
    }
    keys = KEYS | {key: key for key in SUBJECTS}
    history = placed(parts["history"][0], documents, main)
    prior = smoothing["strength"] * sum(row["clicked"] for row in history) / len(history)
    indexes = {(key, place): grouped(history, [key, place]) for key in keys.values() for place in PLACES}
    alone = {key: grouped(history, [key]) for key in keys.values()}
    checked = 0
    for part, (rows, found) in parts.items():
        known = {"out_of_fold": part == "history", "folds": smoothing["folds"]}
        for at in random.Random(1).sample(range(len(rows)), 400):
            row, values = placed([rows[at]], documents, main)[0], found[at]
            for name, key in keys.items():
                clicks, expected = clicks_and_expected(alone[key].get((row[key],), []), row, **known)
                lift = (clicks + prior) / (expected + prior)
                for place in PLACES:
                    same = indexes[key, place].get((row[key], row[place]), [])
                    clicks, expected = clicks_and_expected(same, row, **known, least=smoothing["strength"])
                    wanted = math.log((clicks + prior) / (expected * lift + prior))
                    assert values[f"{name}_by_{place}"] == pytest.approx(wanted, rel=1e-5, abs=1e-6), (name, place)
                    checked += wanted != 0
    assert checked > 5000
