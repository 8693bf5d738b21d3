"""What the machine may be asked for. Nothing here changes a result, so DVC does not track it."""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.core.config import check, section


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeConfig:
    """The section `runtime` of params.yaml.

    threads: 0 for all cores that this process may use.
    memory_limit: what the engine may hold before it spills to `temp_directory`, e.g. `8GB`; of Spark, its driver.
    device: where networks train; `auto` takes a GPU when there is one.
    engine: what computes split, views, features and encode; the same values come of both.
    spark_master: where Spark runs; `local[*]`: here, on as many threads as `threads` says. spark_config: further
    settings of its session, e.g. `spark.executor.memory: 16g`.
    machines: host:port of each machine that trains boosted trees with this one; none: alone.
    """

    threads: int = 0
    memory_limit: str = "8GB"
    temp_directory: str = "data/tmp"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["duckdb", "spark"] = "duckdb"
    spark_master: str = "local[*]"
    spark_config: dict[str, Any] = field(default_factory=dict)
    machines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self.threads >= 0, f"threads: must be 0 (all) or more, found {self.threads}")
        check(
            re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]i?B", self.memory_limit) is not None,
            f"memory_limit: expected a size such as 8GB, found {self.memory_limit!r}",
        )
        for machine in self.machines:
            machine_of(machine)
        twice = sorted({machine for machine in self.machines if self.machines.count(machine) > 1})
        check(not twice, f"machines: each must be named once, found {', '.join(twice)} more often")

    def at_most(self, memory_limit: str) -> RuntimeConfig:
        """With this memory limit, if the own is larger."""
        other = replace(self, memory_limit=memory_limit)
        return other if other.memory_mebibytes < self.memory_mebibytes else self

    @property
    def memory_mebibytes(self) -> int:
        """`memory_limit` in MiB: GB are thousands, GiB are 1024s."""
        found = re.match(r"([\d.]+)\s*([KMGT])(i?)B", self.memory_limit)
        assert found
        power = "KMGT".index(found[2]) + 1
        return int(float(found[1]) * (1024 if found[3] else 1000) ** power) >> 20

    @property
    def spark_settings(self) -> dict[str, str]:
        """`spark_config` as Spark's own names and texts; `a: {b: 1}` is `a.b: 1`, so that `-S` may set it."""

        def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
            for key, value in config.items():
                if isinstance(value, dict):
                    yield from flat(value, f"{prefix}{key}.")
                else:
                    yield f"{prefix}{key}", str(value).lower() if isinstance(value, bool) else str(value)

        return dict(flat(self.spark_config))

    @property
    def cores(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))


def machine_of(text: str) -> tuple[str, int]:
    """Host and port of a machine; ParameterError if it is not host:port."""
    found = re.fullmatch(r"([\w.-]+):(\d{1,5})", text)
    check(found is not None and 0 < int(found[2]) < 1 << 16, f"machines: expected host:port, found {text!r}")
    assert found
    return found[1], int(found[2])


def runtime(params: Path) -> RuntimeConfig:
    return section(params, "runtime", RuntimeConfig)


def make_temporary_folder(runtime: RuntimeConfig) -> Path:
    """A new folder below `temp_directory`; the caller removes it, or, if it is killed, the next call does."""
    parent, of_host = Path(runtime.temp_directory), f"pipeline-{platform.node()}-"
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.glob(f"{glob.escape(of_host)}*"):  # of other machines nobody knows here who lives
        pid = folder.name.removeprefix(of_host).split("-")[0]
        if pid.isdecimal() and not _lives(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{of_host}{os.getpid()}-", dir=parent)).resolve()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it does, and is another user's
        return True
    return True


@contextmanager
def temporary_folder(runtime: RuntimeConfig) -> Iterator[Path]:
    """A new folder below `temp_directory`, which goes at the end."""
    folder = make_temporary_folder(runtime)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
