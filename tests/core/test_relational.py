"""Look-ups: every row once, null where the key is unknown, no column more than asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.relational import look_up


def _table(engine: DuckDBEngine, path: Path, **columns: list[Any]) -> ir.Table:
    pq.write_table(pa.table(columns), path)
    return engine.table(path)


def test_look_up_by_two_keys_of_other_names(engine: DuckDBEngine, tmp_path: Path) -> None:
    table = _table(engine, tmp_path / "rows.parquet", a=[1, 2, None, 3], fold=[0, 1, 0, 0], id=[4, 5, 6, 7])
    lookup = _table(engine, tmp_path / "lookup.parquet", id=[1, 2, 2], part=[0, 0, 1], n=[10, 20, 21])
    found = look_up(table, lookup, {"a": "id", "fold": "part"}).order_by("id")
    found = engine.to_arrow(found)
    assert found.column_names == ["a", "fold", "id", "n"]
    assert found["id"].to_pylist() == [4, 5, 6, 7]
    assert found["n"].to_pylist() == [10, 21, None, None]


def test_look_ups_stack(engine: DuckDBEngine, tmp_path: Path) -> None:
    table = _table(engine, tmp_path / "rows.parquet", x=[1, 2], y=[2, 1])
    lookup = _table(engine, tmp_path / "lookup.parquet", id=[1, 2], n=[10, 20])
    found = look_up(table, lookup.rename(of_x="n"), {"x": "id"})
    found = look_up(found, lookup.rename(of_y="n"), {"y": "id"}).order_by("x")
    found = engine.to_arrow(found)
    assert found.to_pydict() == {"x": [1, 2], "y": [2, 1], "of_x": [10, 20], "of_y": [20, 10]}
