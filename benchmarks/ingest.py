"""Ingest against DuckDB's bare COPY of the same files with the same types, in one run on one machine.

    python -m benchmarks.ingest FOLDER --displays 500000

A world is simulated below the folder (about 4 kB of CSV a display; it goes at the end). Ours does all that the stage
does for a table: it checks every value and display, notes dirt, drops and sorts; of page views it keeps those of users
with an event and counts the others. The bare COPY checks nothing but types. A zip streams through both: ours inflates
it, DuckDB reads `unzip -p` from /dev/stdin. Of events ours also numbers the users and splits the places, which no COPY
does: the line `events and users` sets it against the SQL that writes the same two tables and checks nothing. Of
documents_meta both turn times into numbers. Files of a small world are repeated, each time with further ids, until they
have some MB (--least), else fixed costs would be most of what is measured; in the sum they weigh more than they do in
the competition. Contestants run in a process each and take turns; shown is the least of their seconds, and the most
memory of any run. The start of Python and what both load before they work (this module's imports, those of the stage)
count for neither; what ours loads while it works counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import duckdb

from benchmarks.measure import ROOT, machine, table
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.runtime import RuntimeConfig
from pipeline.ingest.config import IngestConfig
from pipeline.ingest.page_views import page_views
from pipeline.ingest.readers import open_input
from pipeline.ingest.report import Report
from pipeline.ingest.rewriters import Geography
from pipeline.ingest.staging import Build, load
from pipeline.ingest.tables import clicks_test, clicks_train, events, of_distinct
from pipeline.schemas.raw import RAW_FILES

#: line of the table: (file, what ours competes against); clicks_test reads the table of clicks_train, page views users.
LINES = {
    "clicks_train.csv": ("clicks_train.csv", "bare"),
    "clicks_test.csv": ("clicks_test.csv", "bare"),
    "events.csv": ("events.csv", "bare"),
    "events and users": ("events.csv", "numbered"),
    "promoted_content.csv": ("promoted_content.csv", "bare"),
    "documents_meta.csv": ("documents_meta.csv", "bare"),
    "documents_categories.csv": ("documents_categories.csv", "bare"),
    "documents_topics.csv": ("documents_topics.csv", "bare"),
    "documents_entities.csv": ("documents_entities.csv", "bare"),
    "page_views.csv": ("page_views.csv", "bare"),
    "page_views.csv.zip": ("page_views.csv.zip", "bare"),
}
#: The lines that are summed.
TEXT = tuple(label for label, (name, peer) in LINES.items() if name.endswith(".csv") and peer == "bare")
#: Files that are repeated; their first column is an id.
REPEATED = [name for name in TEXT if name.startswith(("clicks_test", "promoted", "documents"))]
#: What makes the table of a raw file; of the others it is the file.
MAKERS = {
    "clicks_train": clicks_train,
    "clicks_test": clicks_test,
    "events": events,
    "promoted_content": lambda build: of_distinct(build, "promoted_content"),
    "documents_meta": lambda build: of_distinct(build, "documents_meta"),
    "page_views": lambda build: page_views(build, "full"),
}
#: What the bare COPY makes of a column, beside its type.
REPLACED = {"documents_meta": "REPLACE (epoch_ms(try_cast(publish_time AS TIMESTAMP)) AS publish_time)"}
ROUNDS = 3
RESULT = ROOT / "benchmarks" / "results" / "ingest.md"

#: What a contestant took: MB of its file, seconds, CPU seconds, peak MB of memory.
Costs = dict[str, float]


def ours(path: Path, folder: Path, runtime: RuntimeConfig) -> None:
    """The table of a raw file, as the stage makes it; what it needs of other tables is there."""
    name = path.name.partition(".")[0]
    with DuckDBEngine(runtime) as engine:
        build = Build(engine, IngestConfig(), {name: open_input(RAW_FILES[name], path)}, folder, Report())
        make = MAKERS.get(name, lambda build: load(build, name, build.path(name)))
        make(build)


def bare(path: Path, folder: Path, runtime: RuntimeConfig) -> None:
    """DuckDB's COPY; of a zip, from standard input."""
    with connect(folder, runtime) as connection:
        replaced = REPLACED.get(path.name.partition(".")[0], "")
        copy(connection, f"SELECT * {replaced} FROM {csv(path)}", folder / "bare.parquet")


def numbered(path: Path, folder: Path, runtime: RuntimeConfig) -> None:
    """Events and users, in SQL: the file is read once, users are numbered in the order of uuid, the quickest there."""
    place = ", ".join(
        f"nullif(split_part(geo_location, '>', {k}), '') AS {part}" for k, part in enumerate(Geography.PARTS, 1)
    )
    with connect(folder, runtime) as connection:
        connection.execute(f"CREATE TEMP TABLE raw AS SELECT * FROM {csv(path)}")
        connection.execute(
            "CREATE TEMP TABLE users AS SELECT (row_number() OVER () - 1)::UINTEGER AS user_id, uuid "
            "FROM (SELECT DISTINCT uuid FROM raw ORDER BY uuid)"
        )
        copy(connection, "FROM users ORDER BY user_id", folder / "bare-users.parquet")
        copy(
            connection,
            f"SELECT display_id, user_id, document_id, timestamp, platform, {place} "
            "FROM raw JOIN users USING (uuid) ORDER BY display_id",
            folder / "bare.parquet",
        )


def connect(folder: Path, runtime: RuntimeConfig) -> duckdb.DuckDBPyConnection:
    options = {"threads": runtime.cores, "memory_limit": runtime.memory_limit, "temp_directory": str(folder / "tmp")}
    return duckdb.connect(config=options)


def csv(path: Path) -> str:
    """A raw file with the types of the tables, as SQL; a zip comes from standard input."""
    columns = {
        c.name: "UTINYINT" if c.name == "platform" else c.sql for c in RAW_FILES[path.name.partition(".")[0]].columns
    }
    source = "/dev/stdin" if path.suffix == ".zip" else str(path)
    return rf"read_csv('{source}', columns = {columns}, header = true, delim = ',', quote = '', nullstr = ['', '\N'])"


def copy(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")


#: Who competes: each makes a Parquet file of a raw file.
CONTESTANTS = {"ours": ours, "bare": bare, "numbered": numbered}


def one(contestant: str, path: Path, folder: Path, runtime: RuntimeConfig) -> None:
    """Run one contestant in this process and print what it took, as JSON."""
    start, cpu = time.perf_counter(), time.process_time()
    CONTESTANTS[contestant](path, folder, runtime)
    took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    print(json.dumps(took | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def run(contestant: str, path: Path, folder: Path, options: argparse.Namespace) -> Costs:
    command = [
        sys.executable,
        "-m",
        "benchmarks.ingest",
        str(folder),
        "--threads",
        str(options.threads),
        "--memory",
        options.memory,
    ]
    command += ["--one", contestant, "--file", str(path)]
    if contestant == "ours" or path.suffix != ".zip":
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    with subprocess.Popen(["unzip", "-p", str(path)], stdout=subprocess.PIPE) as unzip:
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, stdin=unzip.stdout, text=True)
    return json.loads(result.stdout)


def world(folder: Path, displays: int, least: int) -> None:
    """Simulate the raw files, repeat the small ones to some MB, and zip the page views."""
    # not above: it loads pandas, which the contestants must not find loaded
    from pipeline.sources.simulated import SimulatedSource, SimulationConfig

    SimulatedSource(SimulationConfig(displays=displays, seed=1), folder, folder).prepare()
    for name in REPEATED:
        repeat(folder / name, least * 1_000_000)
    with zipfile.ZipFile(folder / "page_views.csv.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.write(folder / "page_views.csv", "page_views.csv")


def repeat(path: Path, least: int) -> None:
    """Write a file's rows again, below each other, until it has `least` bytes; ids in the first column go on upwards,
    as long as they fit into 32 bits."""
    header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [(int(first), rest) for first, _, rest in (line.partition(",") for line in lines)]
    step = 1 + max(first for first, _ in rows)
    times = min(-(-least // path.stat().st_size), 2**32 // step)
    with path.open("w", encoding="utf-8") as file:
        file.write(header)
        for k in range(max(1, times)):
            file.writelines(f"{first + k * step},{rest}" for first, rest in rows)


def compare(folder: Path, options: argparse.Namespace) -> str:
    """Let the contestants take turns; a table with a line for each file, and one for all but the zip.

    Of a file with two peers ours runs once a round for both."""
    peers: dict[str, dict[str, str]] = {}
    for label, (name, peer) in LINES.items():
        peers.setdefault(name, {})[label] = peer
    best: dict[str, tuple[Costs, Costs]] = {}
    for name, lines in peers.items():
        found: dict[str, list[Costs]] = {contestant: [] for contestant in ("ours", *lines.values())}
        for _ in range(ROUNDS):
            for contestant, runs in found.items():
                runs.append(run(contestant, folder / name, folder, options))
        size = (folder / name).stat().st_size / 1e6
        for label, peer in lines.items():
            best[label] = (_least(found["ours"], size), _least(found[peer], size))
            print(*_line(label, *best[label]), flush=True)
    together = [
        {what: (max if what == "peak" else sum)(best[label][k][what] for label in TEXT) for what in best[TEXT[0]][k]}
        for k in (0, 1)
    ]
    head = ["file", "MB", "ours: s", "peer: s", "ratio", "ours: CPU s", "peer: CPU s", "ours: peak MB", "peer: peak MB"]
    rows = [*[_line(label, *costs) for label, costs in best.items()], _line("all .csv by COPY", *together)]
    return table(head, rows)


def _least(runs: list[Costs], size: float) -> Costs:
    least = {what: min(took[what] for took in runs) for what in ("seconds", "cpu")}
    return least | {"MB": size, "peak": max(took["peak"] for took in runs)}


def _line(label: str, ours: Costs, peer: Costs) -> list[str]:
    line = [label, f"{ours['MB']:,.0f}", f"{ours['seconds']:.2f}", f"{peer['seconds']:.2f}"]
    line += [f"{ours['seconds'] / peer['seconds']:.2f}", f"{ours['cpu']:.2f}", f"{peer['cpu']:.2f}"]
    return [*line, f"{ours['peak']:,.0f}", f"{peer['peak']:,.0f}"]


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("folder", type=Path, help="where the world is made, and removed at the end")
    command.add_argument("--displays", type=int, default=500_000, help="of the world; the competition has 23,120,126")
    command.add_argument("--least", type=int, default=40, help="MB that small files are repeated to (default: 40)")
    command.add_argument("--threads", type=int, default=RuntimeConfig().cores)
    command.add_argument("--memory", default="4GB", help="DuckDB's memory limit")
    command.add_argument("--out", type=Path, default=RESULT, help=f"the report (default: {RESULT.relative_to(ROOT)})")
    command.add_argument("--one", choices=tuple(CONTESTANTS), help=argparse.SUPPRESS)
    command.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = command.parse_args()
    if options.one:
        runtime = RuntimeConfig(
            threads=options.threads, memory_limit=options.memory, temp_directory=str(options.folder / "tmp")
        )
        one(options.one, options.file, options.folder, runtime)
        return
    folder = options.folder / "ingest-benchmark"
    folder.mkdir(parents=True)
    try:
        world(folder, options.displays, options.least)
        found = compare(folder, options)
    finally:
        shutil.rmtree(folder)
    size = f"{options.displays:,} displays, small files repeated to {options.least} MB"
    given = f"{size}, {options.threads} threads, {options.memory}: {machine()}."
    options.out.write_text(
        f"# Ingest\n\nWritten by `python -m benchmarks.ingest`, {given}\n\n{found}", encoding="utf-8"
    )
    print(found)


if __name__ == "__main__":
    main()
