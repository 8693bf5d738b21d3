"""A small simulated world and what the stages make of it, each built once a session, for the first test that asks.

Workers of one session (pytest-xdist) share the world: the first that asks builds, the others wait at a lock.
The fixtures' files are shared, so no test may change them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.files import atomic_path, write_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.encode import EncodeConfig, encode_split
from pipeline.features.base import write_group
from pipeline.features.smoothing import SmoothingConfig
from pipeline.ingest.build import ingest
from pipeline.ingest.config import IngestConfig
from pipeline.schemas.encoded import Encoded
from pipeline.sources.base import wanted
from pipeline.sources.simulated import SimulatedSource, SimulationConfig
from pipeline.split import SplitConfig, SplitName, write_split
from pipeline.views import ViewsConfig, write_views
from tests.discovery import feature_groups

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as stages.command does, before torch is loaded

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
Build = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of the session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "world"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """`master`, or the name of this worker where pytest-xdist runs several."""
    return str(getattr(request.config, "workerinput", {}).get("workerid", "master"))


@pytest.fixture(scope="session")
def build_once(session_folder: Path) -> Build:
    """build_once(name, make): the path `name` below the session's folder, made by make(path) unless it is there."""

    def build(name: str, make: Callable[[Path], object]) -> Path:
        path = session_folder / name
        with (session_folder / f"{name.replace('/', '.')}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make(path)
        return path

    return build


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> RuntimeConfig:
    """Two threads, since one would hide what depends on the order of threads."""
    folder = tmp_path_factory.mktemp("temporary")
    return RuntimeConfig(threads=2, memory_limit="1GB", temp_directory=str(folder), device="cpu")


@pytest.fixture
def engine(runtime: RuntimeConfig) -> Iterator[DuckDBEngine]:
    """A DuckDB session of the test's own."""
    with DuckDBEngine(runtime) as engine:
        yield engine


@pytest.fixture(scope="session")
def group_names() -> list[str]:
    """The names of all feature groups."""
    return list(feature_groups())


@pytest.fixture(scope="session")
def raw(build_once: Build) -> Path:
    """The raw files of the simulated world, with manifest.json; `truth` stands below it."""

    def make(path: Path) -> None:
        with atomic_path(path) as partial:
            (partial / "truth").mkdir(parents=True)
            config = SimulationConfig(displays=2000, seed=1, page_views_per_display=10)
            files = SimulatedSource(config, partial, partial / "truth").prepare()
            paths = {name: str(path / files[name].name) for name in wanted("full")}
            write_json(partial / "manifest.json", {"source": "simulated", "page_views": "full", "files": paths})

    return build_once("raw", make)


@pytest.fixture(scope="session")
def tables(build_once: Build, raw: Path, runtime: RuntimeConfig) -> Path:
    """The folder of typed tables."""

    def make(path: Path) -> None:
        with DuckDBEngine(runtime) as engine:
            ingest(raw, path, path.with_name("ingest.json"), engine, IngestConfig())

    return build_once("tables", make)


@pytest.fixture(scope="session")
def splits(build_once: Build, tables: Path, runtime: RuntimeConfig) -> dict[str, Path]:
    """The folder of each split."""

    def make(name: SplitName) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with DuckDBEngine(runtime) as engine:
                write_split(engine, tables, name, SplitConfig(), path)

        return write

    return {name: build_once(f"splits/{name}", make(name)) for name in SPLITS}


@pytest.fixture(scope="session")
def views(build_once: Build, tables: Path, splits: dict[str, Path], runtime: RuntimeConfig) -> dict[str, Path]:
    """The folder of page views by display, for each split."""

    def make(split: Path) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with DuckDBEngine(runtime) as engine:
                write_views(engine, tables, split, ViewsConfig(), path)

        return write

    return {name: build_once(f"views/{name}", make(split)) for name, split in splits.items()}


@pytest.fixture(scope="session")
def smoothing() -> SmoothingConfig:
    """How click rates are smoothed in `features`."""
    return SmoothingConfig(folds=5, strength=12.0)


@pytest.fixture(scope="session")
def features(
    build_once: Build,
    tables: Path,
    splits: dict[str, Path],
    views: dict[str, Path],
    runtime: RuntimeConfig,
    smoothing: SmoothingConfig,
    group_names: list[str],
) -> dict[str, Path]:
    """The folder of all groups' features, for each split."""

    def make(split: str) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with atomic_path(path) as partial:
                for group in group_names:
                    with DuckDBEngine(runtime) as engine:
                        write_group(engine, group, tables, splits[split], views[split], smoothing, partial / group)

        return write

    return {split: build_once(f"features/{split}", make(split)) for split in SPLITS}


@pytest.fixture(scope="session")
def encode_config() -> EncodeConfig:
    """Counts and buckets that a small world fills."""
    return EncodeConfig(min_count=3, min_count_of={"user_id": 2}, buckets=8)


@pytest.fixture(scope="session")
def encoded(
    build_once: Build,
    splits: dict[str, Path],
    features: dict[str, Path],
    runtime: RuntimeConfig,
    group_names: list[str],
    encode_config: EncodeConfig,
) -> dict[str, Encoded]:
    """Each split as the models see it."""

    def make(split: str) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with DuckDBEngine(runtime) as engine:
                encode_split(engine, splits[split], features[split], group_names, encode_config, path)

        return write

    return {split: Encoded(build_once(f"encoded/{split}", make(split))) for split in SPLITS}


@pytest.fixture
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], Path]:
    """short_ranges(folder, copy): its Parquet files in row groups so small that the engine works by several ranges."""
    monkeypatch.setattr(DuckDBEngine.ranges, "__defaults__", (1000,))

    def rewrite(folder: Path, copy: Path) -> Path:
        shutil.copytree(folder, copy)
        for path in copy.glob("*.parquet"):
            pq.write_table(pq.read_table(path), path, row_group_size=256)
        return copy

    return rewrite
