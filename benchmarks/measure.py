"""Run a command and see what it costs: time, memory, and temporary disk; and say on what machine. Linux only."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
#: Of the competition's clicks_train, from which the split `submission` learns, and of its clicks_test.
TRAIN_ROWS, TEST_ROWS = 87_141_731, 32_225_162
_POLL_SECONDS = 0.1
_PACKAGES = ("duckdb", "ibis-framework", "pyarrow", "numpy")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took.

    seconds: wall clock. cpu: seconds of processor time. peak: bytes, the largest resident set of the process or one of
    its children; it counts pages of mapped files, too. own: bytes, the process's without them, seen every 0.1 s.
    temporary: bytes, the most that was seen in the temporary folder.
    """

    seconds: float
    cpu: float
    peak: int
    own: int
    temporary: int


def measured(command: Sequence[str], temporary: Path | None = None) -> Cost:
    """Run a command in the repository's root; RuntimeError with the end of its output if it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start, own, most = time.perf_counter(), 0, 0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            own = max(own, _anonymous(process.pid))
            most = max(most, size_of(temporary) if temporary else 0)
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            told = output.read().decode(errors="replace")[-4000:]
            raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}\n{told}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, own, most)


def _anonymous(pid: int) -> int:
    """Bytes of memory of a process that are no pages of files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def size_of(path: Path) -> int:
    """Bytes on disk of a file, or of all files below a folder; files that go meanwhile count nothing."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += (Path(folder) / name).stat().st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def stage(name: str, *arguments: object) -> list[str]:
    """The command of a stage."""
    return [sys.executable, "-m", f"pipeline.stages.{name}", *map(str, arguments)]


def machine(packages: Sequence[str] = _PACKAGES) -> str:
    """One line: processor, cores, memory, versions, and today's date."""
    info = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    model = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    cores = len(os.sched_getaffinity(0))
    date = time.strftime("%Y-%m-%d")
    return f"{date}, {model}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}, {versions}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"
