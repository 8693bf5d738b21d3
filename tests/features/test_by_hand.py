"""The hand-written SQL that the feature stage is measured against: other code for the same columns, the same values."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.features import SPLIT, compare, groups, write_by_hand
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
