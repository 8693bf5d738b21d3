"""The hand-written SQL that the feature stage is measured against: other code for the same columns, the same values."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.features import SPLIT, compare, groups, same, write_by_hand
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.runtime import RuntimeConfig
from pipeline.features.base import write_group
from pipeline.features.smoothing import SmoothingConfig
from pipeline.views import ViewsConfig, write_views


@pytest.mark.parametrize("group", groups())
def test_the_query_gives_the_same(
    group: str, sparse: tuple[Path, Path], runtime: RuntimeConfig, tmp_path: Path
) -> None:
    tables, split = sparse
    world, views = tmp_path / "world", tmp_path / "world" / "views" / SPLIT.name
    (world / SPLIT).parent.mkdir(parents=True)
    (world / "tables").symlink_to(tables)
    (world / SPLIT).symlink_to(split)
    shutil.copy("params.yaml", world)
    with DuckDBEngine(runtime) as engine:
        write_views(engine, tables, split, ViewsConfig(), views)
        write_group(engine, group, tables, split, views, SmoothingConfig(folds=5, strength=12.0), tmp_path / "stage")
    write_by_hand(group, world, tmp_path / "query")
    compare(tmp_path / "stage", tmp_path / "query")


def lists(*values: list[tuple[int, float]] | None) -> pa.Array:
    """A multi-valued column of these pairs."""
    pair = pa.struct({"id": pa.uint32(), "weight": pa.float32()})
    rows = [value and [{"id": number, "weight": weight} for number, weight in value] for value in values]
    return pa.array(rows, pa.list_(pair))


@pytest.mark.parametrize(
    "other",
    [
        lists([(1, 0.5), (2, 0.25)], None, [], [(3, 1)]),
        lists([(1, 0.5), (2, 0.25)], [], None, [(3, 1)]),
        lists([(1, 0.5)], None, None, [(2, 0.25), (3, 1)]),
        lists([(1, 0.5), (4, 0.25)], None, None, [(3, 1)]),
        lists([(1, 0.5), (2, 0.26)], None, None, [(3, 1)]),
    ],
)
def test_lists_that_differ_are_told(other: pa.Array) -> None:
    ours = lists([(1, 0.5), (2, 0.25)], None, None, [(3, 1)])
    assert same(ours, lists([(1, 0.5), (2, 0.25 + 1e-8)], None, None, [(3, 1)]))
    assert not same(ours, other)


def test_an_unknown_number_is_no_number() -> None:
    assert same(pa.array([1.0, None]), pa.array([1.0 + 1e-9, None]))
    assert not same(pa.array([1.0, None]), pa.array([1.0, float("nan")]))
    assert not same(pa.array([1, None]), pa.array([1, 2]))
