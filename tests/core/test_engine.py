"""Order, bytes and temporary files of the relational engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core import engine as engine_module
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.relational import look_up
from pipeline.core.runtime import RuntimeConfig

DISPLAYS, KEYS = 60_000, 1000
RANGE_ROWS = 50_000


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Displays of 1 to 7 rows, sorted by both ids; `key` joins with `lookup`, some of them with nothing."""
    random = np.random.default_rng(1)
    lengths = random.integers(1, 8, DISPLAYS)
    display_id = np.repeat(np.arange(DISPLAYS) * 3, lengths)
    ad_id = np.arange(len(display_id)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    key = random.integers(0, KEYS + 50, len(display_id))
    columns = {"display_id": display_id, "ad_id": ad_id, "key": key}
    return pa.table({name: pa.array(values, pa.uint32()) for name, values in columns.items()})


@pytest.fixture(scope="module")
def source(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows in many small row groups: so the threads' work interleaves as it does in a large file."""
    path = tmp_path_factory.mktemp("engine") / "rows.parquet"
    pq.write_table(rows, path, row_group_size=2048)
    return path


@pytest.fixture(scope="module")
def lookup(source: Path) -> Path:
    path = source.with_name("lookup.parquet")
    keys = np.arange(KEYS)
    pq.write_table(pa.table({"key": pa.array(keys, pa.uint32()), "value": pa.array(keys * 7 % 1000, pa.int64())}), path)
    return path


@pytest.fixture
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DuckDBEngine.ranges, "__defaults__", (RANGE_ROWS,))


def values(table: pa.Table, *names: str) -> list[tuple[int, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_joins_alone_lose_the_order(engine: DuckDBEngine, rows: pa.Table, source: Path, lookup: Path) -> None:
    """The reason for all that follows: if this ever fails, joins keep the order, and ranges are needed no more."""
    for _ in range(5):
        written = engine.to_arrow(look_up(engine.table(source), engine.table(lookup), {"key": "key"}))
        assert written.num_rows == rows.num_rows
        if written["display_id"] != rows["display_id"]:
            return
    pytest.fail("five joins on two threads kept their order: the file is too small to show what ranges are for")


def test_ranges_keep_the_order(
    engine: DuckDBEngine, rows: pa.Table, source: Path, lookup: Path, tmp_path: Path, short_ranges: None
) -> None:
    assert len(list(engine.ranges(source, "display_id"))) >= 3
    known = engine.once(engine.table(lookup))
    parts: list[int] = []

    def function(part: ir.Table) -> ir.Table:
        parts.append(engine.one(part.aggregate(rows=part.count()))["rows"])
        return look_up(part, known, {"key": "key"})

    path = tmp_path / "out.parquet"
    engine.write_by_ranges(source, "display_id", function, path, order_by=("display_id", "ad_id"), numbered=True)
    written = pq.read_table(path)
    assert written["row"].to_pylist() == list(range(rows.num_rows))
    assert written.column_names == ["row", "display_id", "ad_id", "key", "value"]
    for name in rows.column_names:
        assert written[name].to_pylist() == rows[name].to_pylist(), name
    key = rows["key"].to_numpy()
    assert written["value"].to_pylist() == [int(k) * 7 % 1000 if k < KEYS else None for k in key]
    assert len(parts) >= 3
    assert max(parts) < 1.2 * RANGE_ROWS, "memory would grow with the file"
    assert min(parts[:-1]) >= RANGE_ROWS, "each range costs a query"


def test_equal_values_stay_together(engine: DuckDBEngine, tmp_path: Path) -> None:
    """Borders of row groups fall into runs of equal values, and one run is longer than a range."""
    lengths = [3, 40, 1, 1, 25, 2, 9, 130, 4, 4, 4, 60]
    path = tmp_path / "runs.parquet"
    runs = np.repeat(np.arange(len(lengths)) * 5, lengths)
    pq.write_table(pa.table({"run": pa.array(runs, pa.uint32())}), path, row_group_size=10)
    parts = [values(engine.to_arrow(part), "run") for part in engine.ranges(path, "run", rows=30)]
    assert len(parts) >= 4
    assert [value for part in parts for (value,) in part] == runs.tolist()
    for before, after in pairwise(parts):
        assert before[-1] < after[0]


def test_windows_over_a_display_are_exact(
    engine: DuckDBEngine, rows: pa.Table, source: Path, tmp_path: Path, short_ranges: None
) -> None:
    def function(part: ir.Table) -> ir.Table:
        return part.mutate(length=part.count().over(ibis.window(group_by="display_id")))

    engine.write_by_ranges(source, "display_id", function, tmp_path / "o.parquet", order_by=("display_id", "ad_id"))
    _, inverse, counts = np.unique(rows["display_id"].to_numpy(), return_inverse=True, return_counts=True)
    assert pq.read_table(tmp_path / "o.parquet")["length"].to_pylist() == counts[inverse].tolist()


def test_an_empty_file_is_one_empty_range(engine: DuckDBEngine, rows: pa.Table, tmp_path: Path) -> None:
    empty, out = tmp_path / "empty.parquet", tmp_path / "out.parquet"
    pq.write_table(rows.slice(0, 0), empty)
    assert len(list(engine.ranges(empty, "display_id"))) == 1
    engine.write_by_ranges(
        empty, "display_id", lambda part: part.mutate(more=part.key + 1), out, order_by=("display_id",), numbered=True
    )
    written = pq.read_table(out)
    assert written.num_rows == 0
    assert written.column_names == ["row", *rows.column_names, "more"]


@pytest.mark.parametrize("kept", ["none", "first", "middle", "last"])
def test_what_is_left_of_some_ranges_only_can_be_cut_again(
    engine: DuckDBEngine, rows: pa.Table, source: Path, tmp_path: Path, short_ranges: None, kept: str
) -> None:
    """The validation split keeps no history row of its last days, and so none of the last ranges."""
    third = DISPLAYS  # ids count in threes
    low, high = {"none": (0, 0), "first": (0, third), "middle": (third, 2 * third), "last": (2 * third, 3 * third)}[
        kept
    ]
    some, out = tmp_path / "some.parquet", tmp_path / "out.parquet"

    def function(part: ir.Table) -> ir.Table:
        return part.filter((part.display_id >= low) & (part.display_id < high))

    engine.write_by_ranges(source, "display_id", function, some, order_by=("display_id", "ad_id"))
    engine.write_by_ranges(some, "display_id", lambda part: part, out, order_by=("display_id", "ad_id"))
    ids = rows["display_id"].to_numpy()
    expected = rows.filter(pa.array((ids >= low) & (ids < high)))
    assert (expected.num_rows == 0) == (kept == "none")
    assert pq.read_table(out).equals(expected)


def test_once_computes_once(engine: DuckDBEngine, tmp_path: Path) -> None:
    path = tmp_path / "lookup.parquet"
    pq.write_table(pa.table({"key": [1, 2]}), path)
    table = engine.table(path)
    first = engine.once(table.mutate(twice=table.key * 2))
    pq.write_table(pa.table({"key": [5, 6]}), path)  # whoever computes again sees this
    again = engine.once(table.mutate(twice=table.key * 2))
    other = engine.once(table.mutate(twice=table.key * 3))
    assert values(engine.to_arrow(first), "twice") == [(2,), (4,)]
    assert values(engine.to_arrow(again), "twice") == [(2,), (4,)]
    assert values(engine.to_arrow(other), "twice") == [(15,), (18,)]


def test_of_all_compilers_only_the_one_for_duckdb_is_loaded(lookup: Path) -> None:
    """In a process of its own, where no other test has loaded more; who asks for the others gets them all the same."""
    program = f"""
import sys
from pathlib import Path
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.runtime import RuntimeConfig
with DuckDBEngine(RuntimeConfig(temp_directory={str(lookup.parent)!r})) as engine:
    table = engine.table(Path({str(lookup)!r}))
    assert engine.one(table.aggregate(n=table.count())) == {{"n": {KEYS}}}
heavy = ["pandas", "ibis.backends.duckdb", "ibis.backends.sql.compilers.trino"]
assert [name for name in heavy if name in sys.modules] == []
import ibis
from ibis.backends.sql.compilers import DuckDBCompiler, TrinoCompiler
assert ibis.duckdb.connect().compiler.__class__ is DuckDBCompiler
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_one_wants_one_row(engine: DuckDBEngine, lookup: Path) -> None:
    table = engine.table(lookup)
    assert engine.one(table.aggregate(n=table.count())) == {"n": KEYS}
    for rows in (0, 2):
        with pytest.raises(ValueError, match=f"expected one row, found {rows}"):
            engine.one(table.limit(rows))


def products(runtime: RuntimeConfig, source: Path, lookup: Path, folder: Path) -> dict[str, bytes]:
    """What every way of writing makes of the same files."""
    folder.mkdir()
    with DuckDBEngine(runtime) as engine:
        table = engine.table(source)
        engine.write(table.mutate(more=table.key * 2), folder / "scanned.parquet")
        counts = table.group_by("key").aggregate(n=table.count(), total=table.ad_id.sum()).order_by("key")
        engine.write(counts, folder / "counted.parquet")

        def function(part: ir.Table) -> ir.Table:
            return look_up(part, engine.once(engine.table(lookup)), {"key": "key"})

        engine.write_by_ranges(
            source, "display_id", function, folder / "joined.parquet", order_by=("display_id", "ad_id")
        )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_input_same_bytes(
    runtime: RuntimeConfig, source: Path, lookup: Path, tmp_path: Path, short_ranges: None
) -> None:
    """Twice, with little memory and with much, with one thread and with two."""
    reference = products(runtime, source, lookup, tmp_path / "reference")
    assert len(reference) == 3
    changes: dict[str, dict[str, Any]] = {
        "again": {},
        "little memory": {"memory_limit": "300MB"},
        "much memory": {"memory_limit": "2GB"},
        "one thread": {"threads": 1},
    }
    for name, change in changes.items():
        found = products(replace(runtime, **change), source, lookup, tmp_path / name)
        assert {file for file in reference if reference[file] != found[file]} == set(), name


def test_row_groups_have_a_fixed_size(
    engine: DuckDBEngine, rows: pa.Table, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "ROW_GROUP", 20_480)
    engine.write(engine.table(source), tmp_path / "copied.parquet")
    engine.write_by_ranges(source, "display_id", lambda t: t, tmp_path / "ranged.parquet", order_by=("display_id",))
    for name in ("copied", "ranged"):
        metadata = pq.read_metadata(tmp_path / f"{name}.parquet")
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        assert sum(sizes) == rows.num_rows
        assert set(sizes[:-1]) == {20_480}, name
        assert metadata.row_group(0).column(0).compression == "ZSTD"


class FailedError(Exception):
    """What goes wrong in the middle of a file."""


def test_failure_leaves_the_old_file(engine: DuckDBEngine, source: Path, tmp_path: Path, short_ranges: None) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("old")
    calls: Iterator[int] = iter(range(10))

    def function(part: ir.Table) -> ir.Table:
        if next(calls) == 2:
            raise FailedError
        return part

    with pytest.raises(FailedError):
        engine.write_by_ranges(source, "display_id", function, out, order_by=("display_id",))
    with pytest.raises(Exception, match="Could not convert"):
        engine.write(engine.table(source).mutate(no=ibis.literal("x").cast("int64")), out)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.parquet", "old")]


def test_the_temporary_folder_goes_with_the_session(runtime: RuntimeConfig, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "spill"
    used = replace(runtime, temp_directory=str(folder))
    with DuckDBEngine(used) as engine:
        engine.scratch("note").write_text("x")
        assert engine.scratch("note").is_relative_to(folder.resolve())
        assert Path(str(engine.sql("SELECT current_setting('temp_directory')")[0][0])).is_relative_to(folder.resolve())
    assert list(folder.iterdir()) == []
    with pytest.raises(ValueError, match="expected one row"), DuckDBEngine(used) as engine:
        engine.one(engine.table(source))
    assert list(folder.iterdir()) == []


def test_two_sessions_do_not_share_a_folder(runtime: RuntimeConfig) -> None:
    with DuckDBEngine(runtime) as one, DuckDBEngine(runtime) as two:
        assert one.scratch("x") != two.scratch("x")


def test_the_runtime_is_obeyed(runtime: RuntimeConfig) -> None:
    with DuckDBEngine(replace(runtime, threads=1, memory_limit="300MB")) as engine:
        assert engine.sql("SELECT current_setting('threads')") == [(1,)]
        assert engine.sql("SELECT current_setting('memory_limit')")[0][0] == "286.1 MiB"
    assert RuntimeConfig(threads=0).cores >= 1


def test_a_counter_of_rows_takes_next_to_no_space_and_all_else_a_dictionary(tmp_path: Path) -> None:
    ids = np.arange(100_000)
    bag = pa.list_(pa.struct({"id": pa.uint32(), "weight": pa.float32()}))
    bags = pa.array([[{"id": i % 7, "weight": 0.5}] for i in range(len(ids))], bag)
    table = pa.table({"row": ids, "key": ids % 9, "bag": bags})
    engine_module.write_tables([table.slice(0, 70_000), table.slice(70_000)], tmp_path / "table.parquet")
    group = pq.read_metadata(tmp_path / "table.parquet").row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    row = columns.pop("row")
    assert "DELTA_BINARY_PACKED" in row.encodings
    assert row.total_compressed_size < len(ids) / 50
    assert len(columns) == 3
    assert all(column.has_dictionary_page for column in columns.values())
    assert pq.read_table(tmp_path / "table.parquet").equals(table)
