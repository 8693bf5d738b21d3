"""Click rates by plain loops over rows, as their docstrings define them."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

KEYS = {"ad": "ad_id", "ad_document": "ad_document_id", "campaign": "campaign_id", "advertiser": "advertiser_id"}
Rows = list[dict[str, Any]]


def fold_of(display_id: int, folds: int) -> int:
    return display_id % 2**31 * 2_654_435_761 // 65_536 % folds


def rates(history: Rows, rows: Rows, *, out_of_fold: bool, folds: int, strength: float) -> Rows:
    """For each row the shows, rate and lift of its keys; out of fold for the rows of history."""
    base = sum(row["clicked"] for row in history) / len(history)
    prior = strength * base
    scale = folds / (folds - 1) if out_of_fold else 1.0
    by_key: dict[tuple[str, Any], Rows] = defaultdict(list)
    for row in history:
        for key in KEYS.values():
            if row[key] is not None:
                by_key[key, row[key]].append(row)
    known: dict[tuple[Any, ...], tuple[float, float, float]] = {}

    def measures(key: str, value: Any, fold: int) -> tuple[float, float, float]:
        chosen = [r for r in by_key[key, value] if not out_of_fold or fold_of(r["display_id"], folds) != fold]
        shows = len(chosen) * scale
        clicks = sum(r["clicked"] for r in chosen) * scale + prior
        expected = sum(27_720 // r["ads"] for r in chosen) * scale / 27_720
        return (
            math.log(shows + 1),
            math.log(clicks / (shows + strength - clicks)),
            math.log(clicks / (expected + prior)),
        )

    result = []
    for row in rows:
        found = {}
        for name, key in KEYS.items():
            at = (key, row[key], fold_of(row["display_id"], folds))
            if at not in known:
                known[at] = measures(*at)
            found |= dict(zip((f"{name}_shows", f"{name}_rate", f"{name}_lift"), known[at], strict=True))
        result.append(found)
    return result


def grouped(rows: Rows, keys: list[str]) -> dict[tuple[Any, ...], Rows]:
    """Rows by what they have in common; those that lack one of the keys are left out."""
    found = defaultdict(list)
    for row in rows:
        if all(row[key] is not None for key in keys):
            found[tuple(row[key] for key in keys)].append(row)
    return found


def clicks_and_expected(
    rows: Rows, row: dict[str, Any], *, out_of_fold: bool, folds: int, least: float = 0
) -> tuple[float, float]:
    """Of some rows of history the clicks and the expected clicks that `row` may know; 0 if they are too few."""
    scale = folds / (folds - 1) if out_of_fold else 1.0
    own = fold_of(row["display_id"], folds)
    chosen = [other for other in rows if not out_of_fold or fold_of(other["display_id"], folds) != own]
    if len(chosen) * scale < least:
        return 0.0, 0.0
    return sum(r["clicked"] for r in chosen) * scale, sum(27_720 // r["ads"] for r in chosen) * scale / 27_720


def main_labels(table: Path, label: str) -> dict[int, int]:
    """document_id -> its surest category (or topic), or its publisher."""
    best: dict[int, tuple[float, int]] = {}
    for row in pq.read_table(table).to_pylist():
        if row[f"{label}_id"] is not None:
            candidate = (row.get("confidence_level", 1.0), -row[f"{label}_id"])
            best[row["document_id"]] = max(best.get(row["document_id"], candidate), candidate)
    return {document: -negative for document, (_, negative) in best.items()}
