"""A split in which something is unknown of many rows, and the exact values that its features should have."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.runtime import RuntimeConfig
from pipeline.features.base import write_group
from pipeline.features.smoothing import SmoothingConfig
from pipeline.split import SplitConfig, write_split
from pipeline.views import ViewsConfig, write_views

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def sparse(
    build_once: Callable[[str, Callable[[Path], object]], Path], tables: Path, runtime: RuntimeConfig
) -> tuple[Path, Path]:
    """(tables, split): every seventh display has no event, every eleventh but one ad, every fifth ad no campaign."""

    def make_tables(path: Path) -> None:
        shutil.copytree(tables, path)
        for name, key, every in (("events", "display_id", 7), ("promoted_content", "ad_id", 5)):
            table = pq.read_table(path / f"{name}.parquet")
            pq.write_table(table.filter(pa.array(table[key].to_numpy() % every != 0)), path / f"{name}.parquet")

        clicks = pq.read_table(path / "clicks_train.parquet")
        several = clicks["display_id"].to_numpy() % 11 != 0
        pq.write_table(
            clicks.filter(pa.array(several | (clicks["clicked"].to_numpy() == 1))), path / "clicks_train.parquet"
        )

    def make_split(path: Path) -> None:
        with DuckDBEngine(runtime) as engine:
            write_split(engine, folder, "validation", SplitConfig(), path)

    folder = build_once("sparse_tables", make_tables)
    return folder, build_once("sparse_split", make_split)


@pytest.fixture
def values_of(
    sparse: tuple[Path, Path], runtime: RuntimeConfig, tmp_path: Path
) -> Callable[..., dict[str, tuple[Rows, Rows]]]:
    """values_of(group, **smoothing): part -> the sparse split's impressions and the group's columns, row by row."""

    def compute(group: str, **smoothing: Any) -> dict[str, tuple[Rows, Rows]]:
        tables, split = sparse
        with DuckDBEngine(runtime) as engine:
            views = tmp_path / "views"
            write_views(engine, tables, split, ViewsConfig(), views)
            write_group(engine, group, tables, split, views, SmoothingConfig(**smoothing), tmp_path / group)
        return {
            part: (
                pq.read_table(split / f"{part}.parquet").to_pylist(),
                pq.read_table(tmp_path / group / f"{part}.parquet").to_pylist(),
            )
            for part in ("history", "target")
        }

    return compute


@pytest.fixture(scope="session")
def documents(sparse: tuple[Path, Path]) -> dict[int, dict[str, Any]]:
    """What is known of each document."""
    return {row["document_id"]: row for row in pq.read_table(sparse[0] / "documents_meta.parquet").to_pylist()}
