"""Counts, rates and lifts against plain loops; ranks and gaps within displays."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.config import parse
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.errors import ParameterError
from pipeline.features.smoothing import SmoothingConfig, fold
from tests.rates_reference import KEYS, fold_of, rates

SMOOTHINGS = [{"folds": 5, "strength": 12.0}, {"folds": 2, "strength": 0.5}]


def close(found: float, expected: float) -> bool:
    """Equal but for the rounding to float32."""
    return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-6)


@pytest.mark.parametrize("smoothing", SMOOTHINGS, ids=str)
def test_rates(values_of: Callable[..., Any], smoothing: dict[str, Any]) -> None:
    parts = values_of("rates", **smoothing)
    history = parts["history"][0]
    for part, (rows, found) in parts.items():
        expected = rates(history, rows, out_of_fold=part == "history", **smoothing)
        assert len(found) == len(rows)
        for row, values, wanted in zip(rows, found, expected, strict=True):
            for name, value in wanted.items():
                assert close(values[name], value), (part, row["display_id"], row["ad_id"], name)


def test_a_key_that_history_does_not_know_has_the_base_rate(values_of: Callable[..., Any]) -> None:
    parts = values_of("rates", folds=5, strength=12.0)
    history = parts["history"][0]
    base = sum(row["clicked"] for row in history) / len(history)
    known = {row["ad_id"] for row in history}
    unknown = 0
    for rows, found in parts.values():
        for row, values in zip(rows, found, strict=True):
            missing = [
                name for name, key in KEYS.items() if row[key] is None or (key == "ad_id" and row[key] not in known)
            ]
            for name in missing:
                unknown += 1
                assert (values[f"{name}_shows"], values[f"{name}_lift"]) == (0, 0)
                assert close(values[f"{name}_rate"], math.log(base / (1 - base)))
    assert unknown > 100


@pytest.mark.parametrize("smoothing", SMOOTHINGS, ids=str)
def test_ranks_and_gaps(values_of: Callable[..., Any], smoothing: dict[str, Any]) -> None:
    parts = values_of("rivals", **smoothing)
    history = parts["history"][0]
    ties = 0
    for part, (rows, found) in parts.items():
        lifts = rates(history, rows, out_of_fold=part == "history", **smoothing)
        displays = defaultdict(list)
        for at, row in enumerate(rows):
            displays[row["display_id"]].append(at)
        for members in displays.values():
            for at in members:
                assert found[at]["rivals"] == len(members) - 1
                for key in KEYS:
                    own = lifts[at][f"{key}_lift"]
                    rivals = [lifts[other][f"{key}_lift"] for other in members if other != at]
                    ties += own in rivals
                    assert found[at][f"{key}_rank"] == 1 + sum(rival > own for rival in rivals)
                    assert close(found[at][f"{key}_gap"], own - max(rivals, default=own))
    assert ties > 100


def test_folds_are_those_of_the_reference_and_about_even(engine: DuckDBEngine, tmp_path: Path) -> None:
    ids = [*range(1, 20_000), 16_874_593, 23_120_126, 4_294_967_295]
    pq.write_table(pa.table({"display_id": pa.array(ids, pa.uint32())}), tmp_path / "displays.parquet")
    table = engine.table(tmp_path / "displays.parquet")
    for folds in (2, 5, 10):
        found = engine.to_arrow(table.select("display_id", fold=fold(table, folds))).to_pydict()
        assert found["fold"] == [fold_of(i, folds) for i in found["display_id"]]
        counts = [found["fold"].count(f) for f in range(folds)]
        assert max(counts) < 1.05 * len(ids) / folds


@pytest.mark.parametrize("wrong", [{"folds": 1}, {"strength": 0.0}, {"strength": -1}])
def test_smoothing_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(wrong))}: must be"):
        parse(SmoothingConfig, wrong, "smoothing")
