"""What each stage costs as the data grows: worlds of 1/160, 1/80, 1/40 ... of the competition, from CSV to codes.

    python -m benchmarks.scale                     # up to 1/40: 51 million page views, some 8 GB of scratch disk
    python -m benchmarks.scale --upto 10           # up to 1/10
    python -m benchmarks.scale --keep              # keep the worlds; another run measures only what is missing,
    python -m benchmarks.scale --keep --again "features crosses"   # and what is named
    python -m benchmarks.scale --check-bytes 320   # and whether threads or memory change a byte of any output at 1/320
    python -m benchmarks.scale --report            # write the report anew from what the last run measured

Displays, ads, users, documents and page views all grow in proportion. Each stage runs as its own process, as DVC runs
it, and each is measured once: a killed run goes on. The growth in time is fitted on a log-log scale to CPU seconds,
which suffer less from other work on the machine. For the whole competition, time grows by that power where it is above
1, else as from the second largest world to the largest, in a straight line: most stages have a fixed part. Memory grows
by its power between these two: it rises until the ranges of rows are full that a stage works by, and then stands; or
until the engine holds as much as it may. To show that the limit binds, what would grow beyond it runs once more in the
largest world with a limit of TIGHT: what a stage holds beside the engine is what it held there beyond that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks.measure import GIB, ROOT, Cost, machine, measured, size_of, stage, table
from pipeline.core.files import write_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.sources.simulation.scale import DISPLAYS
from pipeline.stages.ingest import MEMORY_LIMIT

SPLITS = ("validation", "submission")
#: stages -> minutes and GiB that the whole competition may cost; both splits together.
BUDGET = {"ingest": (90, 4), "split, views, features": (180, 12), "encode": (30, 8)}
NOT_MEASURED = "train, and blend, submission and report"  # that have a budget, too
DISK = 300  # GiB that everything may take
POWER = 1.1  # of the rows, by which CPU time may grow at most
PEAK = (40, 8)  # a world of 1/40, and the GiB that no stage may exceed there
TIGHT = "1GB"  # the memory limit that shows what a limit does
CHECKED_LIMITS = (TIGHT, "16GB")
RESULT = ROOT / "benchmarks" / "results" / "scale.md"


@dataclass(frozen=True, slots=True)
class Run:
    """One stage of one world. rows: that it read or described. disk: bytes that it left."""

    stage: str
    split: str
    cost: Cost
    rows: int
    disk: int

    @property
    def budget(self) -> str:
        return self.stage if self.stage in BUDGET else "split, views, features"

    @property
    def name(self) -> str:
        return f"{self.stage} {self.split}".strip()


def as_run(found: dict[str, Any]) -> Run:
    """The run that was stored."""
    return Run(**{**found, "cost": Cost(**found["cost"])})


@dataclass(frozen=True, slots=True)
class Results:
    """What a report is made of: runs and rows of the worlds by their size, the runs with TIGHT, and where all ran."""

    machine: str
    memory_limit: str
    worlds: dict[int, list[Run]]
    counts: dict[int, dict[str, int]]
    tight: dict[str, Run]
    same_bytes: str  # the table of check_bytes, if it was asked for

    def save(self, path: Path) -> None:
        """As JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Results:
        """What `save` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        worlds = {int(size): [as_run(run) for run in runs] for size, runs in found["worlds"].items()}
        counts = {int(size): rows for size, rows in found["counts"].items()}
        in_order = {size: worlds[size] for size in sorted(worlds, reverse=True)}  # write_json has sorted them as texts
        tight = {name: as_run(run) for name, run in found["tight"].items()}
        return cls(**{**found, "worlds": in_order, "counts": counts, "tight": tight})


class Measured:
    """The runs of a world with these parameters, kept in a file of it. again: stages whose runs of old do not count."""

    def __init__(self, world: Path, params: Path, again: Sequence[str] = ()) -> None:
        self.path = world / f"measured-{hashlib.sha256(params.read_bytes()).hexdigest()[:8]}.json"
        found = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else []
        runs = [as_run(run) for run in found]
        self.runs = {run.name: run for run in runs if run.stage not in again}

    def add(self, run: Run) -> None:
        self.runs[run.name] = run
        write_json(self.path, [asdict(run) for run in self.runs.values()])


def write_params(world: Path, displays: int, memory_limit: str, threads: int) -> Path:
    """The repository's parameters but for the size of the world and the machine."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["data"]["source"] = "simulated"
    params["simulation"]["displays"] = displays
    params["runtime"] |= {"memory_limit": memory_limit, "threads": threads, "temp_directory": str(world / "tmp")}
    world.mkdir(parents=True, exist_ok=True)
    (world / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return world / "params.yaml"


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of one world: what it is, the folder that it writes, and what its command is told beside these."""

    stage: str
    split: str
    out: Path
    arguments: Sequence[object]

    @property
    def name(self) -> str:
        return f"{self.stage} {self.split}".strip()

    def run(self, world: Path, params: Path, out: Path | None = None) -> Run:
        command, _, group = self.stage.partition(" ")
        told = ["--group", group] if group else []
        out = out or self.out
        cost = measured(stage(command, "--params", params, "--out", out, *told, *self.arguments), world / "tmp")
        return Run(self.stage, self.split, cost, rows_of(world, self.split), size_of(out))


def steps(raw: Path, world: Path, params: Path) -> Iterator[Step]:
    """Ingest, split, views, every feature group and encode, for both splits, in the order in which they can run."""
    values = yaml.safe_load(params.read_text(encoding="utf-8"))
    groups = [f"features {group}" for group in values["features"]]
    groups += [f"collaborative {group}" for group in values["collaborative"]["groups"]]
    tables = world / "tables"
    yield Step("ingest", "", tables, ("--raw", raw, "--report", world / "ingest.json"))
    for split in SPLITS:
        folders = {name: world / name / split for name in ("splits", "views", "features", "encoded")}
        inputs = ("--tables", tables, "--split", folders["splits"])
        yield Step("split", split, folders["splits"], ("--tables", tables, "--split", split))
        yield Step("views", split, folders["views"], inputs)
        for group in groups:
            yield Step(group, split, folders["features"] / group.split()[1], (*inputs, "--views", folders["views"]))
        encoded = ("--split", folders["splits"], "--features", folders["features"])
        yield Step("encode", split, folders["encoded"], encoded)


def stages(raw: Path, world: Path, params: Path, again: Sequence[str] = ()) -> Iterator[Run]:
    """Run all steps, one after the other; what has been measured before is given as it was."""
    known = Measured(world, params, again)
    for step in steps(raw, world, params):
        if step.name not in known.runs:
            known.add(step.run(world, params))
        yield known.runs[step.name]


def rows_of(world: Path, split: str) -> int:
    """What a stage has to do: the rows of all raw files for ingest, else the impressions of the split."""
    if split:
        return sum(pq.read_metadata(path).num_rows for path in (world / "splits" / split).glob("*.parquet"))
    report = yaml.safe_load((world / "ingest.json").read_text(encoding="utf-8"))
    return sum(int(file["rows"]) for file in report["files"].values())


def measure_worlds(
    scratch: Path, sizes: Sequence[int], memory_limit: str, again: Sequence[str]
) -> dict[int, list[Run]]:
    """All stages of worlds of 1/size of the competition; each stage of all worlds, one after the other, before the next
    stage, since the speed of a machine changes in an hour."""
    measuring = []
    for size in sizes:
        world = scratch / f"world-{size}"
        params = write_params(world, round(DISPLAYS / size), memory_limit, 0)
        make_raw(world, params)
        measuring.append(stages(world / "raw", world, params, again))
    worlds: dict[int, list[Run]] = {size: [] for size in sizes}
    for runs in zip(*measuring, strict=True):
        for size, run in zip(sizes, runs, strict=True):
            worlds[size].append(run)
            cost = run.cost
            shown = f"{cost.seconds:8.1f} s {cost.peak / GIB:6.2f} GiB {cost.temporary / GIB:6.2f} GiB temporary"
            print(f"1/{size:<5} {run.stage:20} {run.split:11} {shown}", flush=True)
    return worlds


def squeezed(scratch: Path, worlds: dict[int, list[Run]], limit: str) -> dict[str, Run]:
    """The stages of the largest world that would grow beyond `limit`, run again with no more than TIGHT: name -> run.
    RuntimeError if one of them writes other bytes then."""
    size = min(worlds)
    world = scratch / f"world-{size}"
    tight = world / "tight"
    params = write_params(tight, round(DISPLAYS / size), TIGHT, 0)
    found = {}
    for at, step in enumerate(steps(world / "raw", world, params)):
        if whole_memory(worlds, at) > bytes_of(limit_of(step.stage, limit)):
            found[step.name] = step.run(world, params, tight / "out")
            if digest(tight / "out") != digest(step.out):
                raise RuntimeError(f"{step.name}: other bytes with a memory limit of {TIGHT}")
            cost = found[step.name].cost
            print(f"1/{size:<5} {step.name:32} with {TIGHT}: {cost.seconds:.1f} s {cost.own / GIB:.2f} GiB", flush=True)
    shutil.rmtree(tight)
    return found


def limit_of(stage: str, limit: str) -> str:
    """What the engine of a stage may hold."""
    return min(limit, MEMORY_LIMIT, key=bytes_of) if stage == "ingest" else limit


def bytes_of(limit: str) -> int:
    return RuntimeConfig(memory_limit=limit).memory_mebibytes << 20


def counts_of(world: Path) -> dict[str, int]:
    """How large a world is."""
    report = yaml.safe_load((world / "ingest.json").read_text(encoding="utf-8"))
    return {name: int(file["rows"]) for name, file in report["files"].items()} | {"users": report["events"]["users"]}


def make_raw(world: Path, params: Path) -> None:
    """The raw files of a world, unless an earlier run kept them."""
    if not (world / "raw" / "manifest.json").exists():
        paths = [
            f"--{option}={world / name}" for option, name in (("out", "raw"), ("truth", "truth"), ("downloads", "k"))
        ]
        measured(stage("raw", "--params", params, *paths))


# --- growth -------------------------------------------------------------------------------------------------------


def exponent(sizes: list[float], costs: list[float]) -> float:
    """The power of size by which a cost grows: the slope of a straight line on a log-log scale."""
    if len(sizes) < 2 or min(costs) <= 0:
        return math.nan
    x, y = ([math.log(value) for value in values] for values in (sizes, costs))
    return statistics.linear_regression(x, y).slope


def whole_time(sizes: list[float], costs: list[Cost]) -> float:
    """Seconds for the whole competition; sizes: shares of it, ascending."""
    cpu, power = [cost.cpu for cost in costs], exponent(sizes, [cost.cpu for cost in costs])
    if math.isnan(power):
        ratio = 1 / sizes[-1]
    elif power > 1:
        ratio = float((1 / sizes[-1]) ** power)
    else:
        ratio = 1 + (cpu[-1] - cpu[-2]) / cpu[-1] * (1 - sizes[-1]) / (sizes[-1] - sizes[-2])
    return costs[-1].seconds * max(1.0, ratio)


def whole_memory(worlds: dict[int, list[Run]], at: int) -> float:
    """Bytes for the whole competition of the stage at this place, if nothing limits it."""
    sizes = sorted(worlds, reverse=True)[-2:]
    owns = [float(worlds[size][at].cost.own) for size in sizes]
    power = exponent([1 / size for size in sizes], owns)
    return owns[-1] * sizes[-1] ** (0.0 if math.isnan(power) else max(0.0, power))


def limited_memory(free: float, last: Run, tight: Run | None, limit: str) -> float:
    """Bytes, where the engine that was held to TIGHT may hold no more than `limit`; as if nothing limits it, if it held
    nearly as much then."""
    if tight is None or tight.cost.own > 0.9 * last.cost.own:
        return free
    return min(free, bytes_of(limit) + max(0, tight.cost.own - bytes_of(TIGHT)))


def growth(worlds: dict[int, list[Run]], tight: dict[str, Run], limit: str) -> tuple[str, str]:
    """Two tables: each stage's growth and what the whole would cost; the sums beside the budget."""
    largest = min(worlds)
    minutes: dict[str, float] = defaultdict(float)
    memory: dict[str, float] = defaultdict(float)
    rows = []
    for at, last in enumerate(worlds[largest]):
        sizes = [1 / size for size in worlds]
        costs = [runs[at].cost for runs in worlds.values()]
        times, peaks = [float(cost.seconds) for cost in costs], [float(cost.own) for cost in costs]
        powers = exponent(sizes, [cost.cpu for cost in costs]), exponent(sizes[-2:], peaks[-2:])
        time = whole_time(sizes, costs) / 60
        peak = limited_memory(whole_memory(worlds, at), last, tight.get(last.name), limit_of(last.stage, limit)) / GIB
        minutes[last.budget] += time
        memory[last.budget] = max(memory[last.budget], peak)
        rows.append(
            [
                last.name,
                *(f"{time:.1f}" for time in times),
                f"{powers[0]:.2f}",
                *(f"{peak / GIB:.2f}" for peak in peaks),
                f"{powers[1]:.2f}",
                f"{tight[last.name].cost.own / GIB:.2f}" if last.name in tight else "",
                f"{time:.1f}",
                f"{peak:.1f}",
                f"{last.disk * largest / GIB:.1f}",
            ]
        )
    names = [f"1/{size}" for size in worlds]
    seconds, gibs = ([f"{unit}, {name}" for name in names] for unit in ("s", "GiB"))
    held = f"GiB, with {TIGHT}"
    header = ["stage", *seconds, "power", *gibs, "power", held, "whole: min", "whole: GiB", "on disk: GiB"]
    budget = [
        [name, f"{minutes[name]:.0f}", allowed[0], f"{memory[name]:.1f}", allowed[1], verdict]
        for name, allowed in BUDGET.items()
        for verdict in ["yes" if minutes[name] <= allowed[0] and memory[name] <= allowed[1] else "**no**"]
    ]
    disk = sum(last.disk for last in worlds[largest]) * largest / GIB
    budget.append(["on disk, without the raw files", "", "", f"{disk:.0f}", DISK, "yes" if disk <= DISK else "**no**"])
    head = ["for the whole competition", "minutes", "budget", "GiB", "budget", "within"]
    return table(header, rows), table(head, budget)


def limits(worlds: dict[int, list[Run]]) -> str:
    """A table: whether any stage's CPU time grows too fast, and whether any takes too much memory in a world of PEAK;
    if so which, else the nearest to it."""
    sizes = [1 / size for size in worlds]
    size, allowed = PEAK
    powers = {
        last.name: exponent(sizes, [runs[at].cost.cpu for runs in worlds.values()])
        for at, last in enumerate(worlds[min(worlds)])
    }
    peaks = {run.name: run.cost.peak / GIB for run in worlds.get(size, [])}
    rows = []
    for what, found, most in (
        ("power of CPU time", {name: power for name, power in powers.items() if not math.isnan(power)}, POWER),
        (f"peak GiB at 1/{size}, with mapped files", peaks, allowed),
    ):
        above = {name: value for name, value in found.items() if value > most}
        told = above or dict(sorted(found.items(), key=lambda item: item[1])[-1:])
        shown = ", ".join(f"{name} {value:.2f}" for name, value in told.items())
        verdict = ("**no**" if above else "yes") if found else "not measured"
        rows.append([f"every stage: {what}", shown, most, verdict])
    return table(["growth", "above, or highest", "at most", "within"], rows)


def details(runs: list[Run]) -> str:
    rows = [
        [
            run.name,
            f"{run.cost.seconds:.1f}",
            f"{run.cost.cpu:.1f}",
            f"{run.rows / run.cost.seconds / 1000:,.0f}",
            f"{run.cost.peak / GIB:.2f}",
            f"{run.cost.own / GIB:.2f}",
            f"{run.cost.temporary / GIB:.2f}",
            f"{run.disk / GIB:.3f}",
        ]
        for run in runs
    ]
    header = ["stage", "s", "CPU s", "1000 rows/s", "peak GiB", "without files", "temporary GiB", "output GiB"]
    return table(header, rows)


# --- same bytes ---------------------------------------------------------------------------------------------------


def check_bytes(scratch: Path, size: int) -> str:
    """Run one world at 1 and 2 threads, with little memory and with much, and compare all that the stages write."""
    base = scratch / "bytes"
    make_raw(base, write_params(base, round(DISPLAYS / size), CHECKED_LIMITS[0], 0))
    written: dict[str, dict[str, str]] = {}
    for threads in (1, 2):
        for limit in CHECKED_LIMITS:
            world = base / f"{threads}-{limit}"
            params = write_params(world, round(DISPLAYS / size), limit, threads)
            for _ in stages(base / "raw", world, params):
                pass
            written[f"{threads} thread{'s' * (threads > 1)}, {limit}"] = digests(world)
            shutil.rmtree(world)
    shutil.rmtree(base)
    first = next(iter(written.values()))
    rows = [
        [name, len(found), len({p for p in first | found if first.get(p) != found.get(p)})]
        for name, found in written.items()
    ]
    for name, found in written.items():
        for path in sorted(first | found):
            if first.get(path) != found.get(path):
                print(f"differs with {name}: {path}")
    return table([f"1/{size} of the competition", "files", "that differ from the first"], rows)


def digests(world: Path) -> dict[str, str]:
    """The hash of each file that the stages wrote."""
    found: dict[str, str] = {}
    for folder in ("tables", "splits", "views", "features", "encoded"):
        found |= {f"{folder}/{name}": value for name, value in digest(world / folder).items()}
    return found


def digest(folder: Path) -> dict[str, str]:
    """The hash of each file in a folder."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


# ------------------------------------------------------------------------------------------------------------------


def report(results: Results) -> str:
    """All tables, as Markdown."""
    worlds, counts = results.worlds, results.counts
    stage_table, budget = growth(worlds, results.tight, results.memory_limit)
    names = sorted(counts[max(counts)])
    rows = [[name, *(f"{counts[size][name]:,}" for size in worlds)] for name in names]
    parts = [
        "# Growth\n",
        f"Written by `python -m benchmarks.scale`, memory limit {results.memory_limit}: {results.machine}.\n",
        "Memory is the process's own, without pages of mapped files. benchmarks/scale.py says how the whole is "
        "extrapolated. Powers: of CPU seconds over all worlds, and of memory over the two largest. Stages that "
        f"would grow beyond the limit ran again in the largest world with {TIGHT}, and wrote the same bytes. "
        f"Not measured here: {NOT_MEASURED}.\n",
        budget,
        limits(worlds),
        stage_table,
        "Rows of the worlds:\n",
        table(["", *(f"1/{size}" for size in worlds)], rows),
        *(f"## 1/{size}\n\n{details(runs)}" for size, runs in worlds.items()),
    ]
    if results.same_bytes:
        parts.append(f"## Same bytes\n\n{results.same_bytes}")
    return "\n".join(parts)


def write_report(results: Results, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report(results), encoding="utf-8")
    _, budget = growth(results.worlds, results.tight, results.memory_limit)
    print(budget, limits(results.worlds), f"written: {path}", sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=int, default=160, help="the smallest world is 1/START (default: 160)")
    parser.add_argument("--upto", type=int, default=40, help="the largest world is 1/UPTO, by halves (default: 40)")
    parser.add_argument("--memory-limit", default="4GB", help="of the engine (default: 4GB)")
    parser.add_argument("--scratch", type=Path, default=ROOT / "data" / "scale", help="folder (default: data/scale)")
    parser.add_argument("--keep", action="store_true", help="keep the worlds")
    parser.add_argument("--again", nargs="*", default=[], help="stages that are measured anew in kept worlds")
    parser.add_argument("--check-bytes", type=int, metavar="SIZE", help="compare 1/SIZE over threads and memory limits")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"the report (default: {RESULT.relative_to(ROOT)})")
    parser.add_argument("--report", action="store_true", help="write the report anew from the JSON beside it")
    options = parser.parse_args()
    stored = options.out.with_suffix(".json")
    if options.report:
        if not stored.exists():
            parser.error(f"--report: {stored}: no such file; expected what a run without --report stores")
        write_report(Results.load(stored), options.out)
        return
    sizes = [options.start]
    while sizes[-1] // 2 >= options.upto:
        sizes.append(sizes[-1] // 2)
    scratch = options.scratch.resolve()
    worlds = measure_worlds(scratch, sizes, options.memory_limit, options.again)
    counts = {size: counts_of(scratch / f"world-{size}") for size in sizes}
    tight = squeezed(scratch, worlds, options.memory_limit)
    if not options.keep:
        for size in sizes:
            shutil.rmtree(scratch / f"world-{size}")
    same_bytes = check_bytes(scratch, options.check_bytes) if options.check_bytes else ""
    results = Results(machine(), options.memory_limit, worlds, counts, tight, same_bytes)
    results.save(stored)
    write_report(results, options.out)


if __name__ == "__main__":
    main()
