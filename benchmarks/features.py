"""The feature stage against hand-written SQL: the same columns, by DuckDB alone, in one run.

    python -m benchmarks.features --scratch FOLDER    # the world stays there, and is made but once

A world of 1/20 of the competition is simulated, unless --displays says another size, and brought up to its features.
Both run in a process of their own, whose start counts, one after the other, and write zstd Parquet in the order of the
rows; the least of some repetitions counts, and all values are compared. The stage has to be within 1.5 times the query.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.measure import GIB, ROOT, Cost, machine, measured, stage, table
from benchmarks.queries.base import Query
from pipeline.core.config import read_yaml
from pipeline.core.runtime import runtime
from pipeline.schemas.impressions import PARTS
from pipeline.sources.simulation.scale import DISPLAYS

LIMIT = 1.5
SPLIT = Path("splits/validation")
RESULT = ROOT / "benchmarks" / "results" / "features.md"


def groups() -> list[str]:
    """The feature groups of params.yaml, but for those that are fitted: each has benchmarks/queries/GROUP.py."""
    return list(read_yaml(ROOT / "params.yaml")["features"])


def load_query(group: str) -> Query:
    """The QUERY of benchmarks/queries/GROUP.py."""
    return importlib.import_module(f"benchmarks.queries.{group}").QUERY


def write_by_hand(group: str, world: Path, out: Path) -> None:
    """What the benchmark's own process does: both parts of a group by hand-written SQL."""
    params = world / "params.yaml"
    machine_config, smoothing = runtime(params), read_yaml(params)["smoothing"]  # without Ibis, which takes its time
    query = load_query(group)
    out.mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {machine_config.cores}")
        connection.execute(f"SET memory_limit = '{machine_config.memory_limit}'")
        connection.execute(f"SET temp_directory = '{out.parent / 'tmp'}'")
        for name, path in files(world).items():
            connection.execute(f"CREATE TEMP VIEW {name} AS FROM '{path}'")
        for name in ("folds", "strength"):
            connection.execute(f"SET VARIABLE {name} = {smoothing[name]}")
        for statement in query.before:
            connection.execute(statement)
        for part in PARTS:
            path = out / f"{part}.parquet"
            connection.execute(f"COPY ({query.select(part)}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")


def files(world: Path) -> dict[str, Path]:
    """What a query may read: name (see benchmarks.queries.base) -> file."""
    views = world / "views" / SPLIT.name
    return {
        **{path.stem: path for path in sorted((world / "tables").glob("*.parquet"))},
        **{part: world / SPLIT / f"{part}.parquet" for part in PARTS},
        **{f"{part}_views": views / f"{part}.parquet" for part in PARTS},
        "viewed": views / "documents.parquet",
    }


def compare(ours: Path, theirs: Path) -> None:
    """ValueError unless all columns have the same types and values: numbers, those within lists too, but for the
    rounding of float32, all else exactly."""
    for part in PARTS:
        with pq.ParquetFile(ours / f"{part}.parquet") as a, pq.ParquetFile(theirs / f"{part}.parquet") as b:
            names = a.schema_arrow.names
            if names != b.schema_arrow.names or a.metadata.num_rows != b.metadata.num_rows:
                raise ValueError(
                    f"{part}: {names}, {a.metadata.num_rows} rows; {b.schema_arrow.names}, {b.metadata.num_rows} rows"
                )
            for name in names:
                left, right = (file.read([name])[name].combine_chunks() for file in (a, b))
                if left.type != right.type:
                    raise ValueError(f"{part}: {name} is {left.type}; {right.type}")
                if not same(left, right):
                    raise ValueError(f"{part}: {name} differs")


def same(left: pa.Array, right: pa.Array) -> bool:
    """Whether two arrays of one type hold the same: the same nulls, lists of the same lengths, numbers as `compare`."""
    if not left.is_valid().equals(right.is_valid()):
        return False
    if pa.types.is_list(left.type):
        lengths = (pc.list_value_length(array) for array in (left, right))
        return next(lengths).equals(next(lengths)) and same(left.flatten(), right.flatten())
    if pa.types.is_struct(left.type):
        return all(same(*pair) for pair in zip(left.flatten(), right.flatten(), strict=True))
    if pa.types.is_floating(left.type):
        ours, theirs = (array.drop_null().to_numpy() for array in (left, right))
        return np.allclose(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)
    return left.equals(right)


def best(commands: dict[str, list[str]], folders: dict[str, Path], repeat: int) -> dict[str, Cost]:
    """Each command's fastest run; they take turns."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            shutil.rmtree(folders[name], ignore_errors=True)
            costs[name].append(measured(command))
    return {name: min(runs, key=lambda cost: cost.seconds) for name, runs in costs.items()}


def make_world(scratch: Path, displays: int) -> Path:
    """A folder with a world's parameters, tables, validation split and views by display."""
    from benchmarks.scale import make_raw, steps, write_params  # not above: the hand-written query need not load it

    world = scratch / f"world-{displays}"
    params = write_params(world, displays, "4GB", 0)
    make_raw(world, params)
    for step in steps(world / "raw", world, params):
        if step.stage in ("ingest", "split", "views") and step.split in ("", SPLIT.name) and not step.out.exists():
            step.run(world, params)
    return world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=ROOT / "data" / "features-benchmark", help="folder of worlds")
    parser.add_argument("--displays", type=int, default=DISPLAYS // 20, help="of the world (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the fastest counts (default: 3)")
    parser.add_argument("--groups", nargs="+", default=groups(), metavar="GROUP", help="which (default: all)")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"the report (default: {RESULT.relative_to(ROOT)})")
    parser.add_argument("--by-hand", nargs=3, metavar=("GROUP", "WORLD", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.by_hand:
        group, *paths = options.by_hand
        write_by_hand(group, *map(Path, paths))
        return
    world = make_world(options.scratch.resolve(), options.displays)
    split = world / SPLIT
    rows = []
    for group in options.groups:
        with tempfile.TemporaryDirectory() as scratch:
            folders = {name: Path(scratch) / name for name in ("stage", "query")}
            told = ["--params", world / "params.yaml", "--tables", world / "tables", "--split", split]
            told += ["--views", world / "views" / split.name, "--group", group, "--out", folders["stage"]]
            by_hand = [sys.executable, "-m", "benchmarks.features", "--by-hand", group, world, folders["query"]]
            commands = {"stage": stage("features", *told), "query": [str(word) for word in by_hand]}
            costs = best(commands, folders, options.repeat)
            # elsewhere: the peak of a command begins at what the process holds that starts it
            with ProcessPoolExecutor(1, get_context("spawn")) as other:
                other.submit(compare, folders["stage"], folders["query"]).result()
        ours, theirs = costs["stage"], costs["query"]
        ratio, cpu = ours.seconds / theirs.seconds, ours.cpu / theirs.cpu
        peaks = [f"{cost.peak / GIB:.2f}" for cost in (ours, theirs)]
        verdict = "yes" if ratio <= LIMIT else "**no**"
        rows.append(
            [group, f"{ours.seconds:.1f}", f"{theirs.seconds:.1f}", f"{ratio:.2f}", f"{cpu:.2f}", *peaks, verdict]
        )
        print(*rows[-1], flush=True)
    count = sum(pq.read_metadata(split / f"{part}.parquet").num_rows for part in PARTS)
    head = ["group", "stage s", "query s", "ratio", "CPU ratio", "stage GiB", "query GiB", f"within {LIMIT}"]
    found = table(head, rows)
    given = f"Written by `python -m benchmarks.features`, {count:,} rows: {machine()}."
    options.out.write_text(f"# Features\n\n{given}\n\n{found}", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
