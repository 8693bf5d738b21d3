"""Runs one contestant of benchmarks/models.py: `python run.py NAME FOLDER`; the last line of its output is JSON."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Benchmark:
    """The data, the settings, and a stopwatch for a contestant.

    REPEATS: how often what is short is measured; the fastest counts.
    """

    REPEATS = 3

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.seconds: dict[str, tuple[float, float]] = {}  # by the clock, and of all cores together
        self.epochs: int = self.settings["epochs"]  # that training took

    def codes(self, part: str) -> NDArray[np.int32]:
        """(N, F): each field's codes from 0. part: history or target."""
        return np.load(self.folder / f"{part}_codes.npy")  # type: ignore[no-any-return]

    def clicked(self, part: str) -> NDArray[np.uint8]:
        """(N,)"""
        return np.load(self.folder / f"{part}_clicked.npy")  # type: ignore[no-any-return]

    def held_in(self) -> int:
        """The rows, the first ones, of about nine tenths of the displays to learn from."""
        offsets = np.load(self.folder / "encoded" / "history" / "offsets.npy", mmap_mode="r")
        return int(offsets[9 * (len(offsets) - 1) // 10])

    def timed(self, what: str, call: Callable[[], Any], epochs: int | None = None) -> Any:
        """Time training, or inference, which is repeated; epochs: of training, if they are other than the settings'."""
        self.epochs = epochs or self.epochs
        result, runs = None, []
        for _ in range(self.REPEATS if what == "inference" else 1):
            start = time.perf_counter(), time.process_time()
            result = call()
            runs.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        self.seconds[what] = min(runs)
        return result


def peak_memory() -> float:
    """Mebibytes; unlike getrusage's, this starts anew with the program, and not from what had started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    benchmark = Benchmark(folder)
    logits = importlib.import_module(name).run(benchmark)  # (N,) of target
    np.save(folder / f"{name}.npy", np.asarray(logits, dtype=np.float32))
    rows = {part: len(np.load(folder / f"{part}_clicked.npy", mmap_mode="r")) for part in ("history", "target")}
    work = {"training": rows["history"] * benchmark.epochs, "inference": rows["target"]}
    result = {"memory": peak_memory()}
    for what, count in work.items():
        clock, cpu = benchmark.seconds[what]
        result |= {what: count / clock, f"{what}_cpu": count / cpu}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
