"""Whether the memory that training takes grows with the rows: our models on n rows and on 4 n, a process each.

    python -m benchmarks.training_memory --scratch FOLDER

The rows, fields and settings are those of benchmarks/models.py; the n rows are the first of the 4 n, the fields have
the same codes in both, and as many rows are scored. n must be large enough to fill what factorization machines read
ahead (two times 65,536 displays, some 700,000 rows) and to meet most codes: below that everything seems to grow.
Counted is what a process holds that is no page of a file: what is read through memory maps goes when others need the
space. It is looked at every 0.1 s. A model fits one epoch, as the stage `train` does, and scores; factorization
machines learn at one rate, since to choose it they would score all rows. From both follows what a further row takes,
and from that, in a straight line, the whole competition's memory. Boosted trees hold a byte or two for each field of a
row: that is how LightGBM works.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from benchmarks import models
from benchmarks.measure import GIB, ROOT, TRAIN_ROWS, machine, measured, table

MODELS = (
    "ours",
    "ours_normdnn",
    "ours_wide_deep_crosses",
    "ours_dcnv2",
    "ours_deeplight",
    "ours_ffm",
    "ours_fm",
    "ours_lr",
    "ours_lightgbm",
)
TIMES = 4
FLAT = 1.1  # the ratio up to which memory does not grow
WHOLE_GIB = 16  # that training may take then
MIB = 2**20
RESULT = ROOT / "benchmarks" / "results" / "training_memory.md"


def first(part: models.Part, displays: int) -> models.Part:
    """The first displays of a part."""
    rows = int(part.offsets[displays])
    return models.Part(part.offsets[: displays + 1], part.codes[:rows], part.clicked[:rows], part.logit[:rows])


def report(peaks: dict[str, tuple[int, int]], rows: tuple[int, int]) -> str:
    """As a table. peaks: bytes of each model with fewer and with more rows. rows: how many those are."""
    header = ["model", *(f"MiB, {count:,} rows" for count in rows), "ratio", f"at most {FLAT}", "bytes a further row"]
    lines = []
    for name, (less, more) in peaks.items():
        row = (more - less) / (rows[1] - rows[0])
        whole = (more + max(0.0, row) * (TRAIN_ROWS - rows[1])) / GIB
        verdicts = ["yes" if holds else "**no**" for holds in (more <= FLAT * less, whole <= WHOLE_GIB)]
        line = [name, f"{less / MIB:,.0f}", f"{more / MIB:,.0f}", f"{more / less:.2f}", verdicts[0], f"{row:.1f}"]
        lines.append([*line, f"{whole:.1f}", verdicts[1]])
    return table([*header, f"GiB, {TRAIN_ROWS / 1e6:.0f} M rows", f"at most {WHOLE_GIB}"], lines)


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--scratch", type=Path, required=True, help="folder for the data; emptied first")
    command.add_argument("--rows", type=int, default=1_000_000, help=f"about how many; and {TIMES} times as many")
    command.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    command.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    command.add_argument("--out", type=Path, default=RESULT, help=f"the report (default: {RESULT.relative_to(ROOT)})")
    options = command.parse_args()
    shutil.rmtree(options.scratch, ignore_errors=True)
    random = np.random.default_rng(1)
    truth, displays = models.draw_truth(random), models.displays_of(options.rows)
    more, target = (models.draw(random, n, truth) for n in (TIMES * displays, max(1, displays // 5)))
    settings = models.settings(epochs=1, threads=options.threads) | {"rates": [0.2]}
    worlds = {name: options.scratch / name for name in ("less", "more")}
    for folder, history in zip(worlds.values(), (first(more, displays), more), strict=True):
        models.write(folder, {"history": history, "target": target}, settings)
    rows = int(more.offsets[displays]), len(more.codes)
    del more, history
    peaks = {}
    for name in options.models:
        runs = (measured([sys.executable, str(models.RUN), name, str(folder)]) for folder in worlds.values())
        less, most = (run.own for run in runs)
        peaks[name] = less, most
        print(f"{name:24} {less / MIB:8,.0f} MiB {most / MIB:8,.0f} MiB", flush=True)
    found = report(peaks, rows)
    given = f"{options.rows} rows, {options.threads} threads: {machine(('torch', 'lightgbm', 'numba', 'numpy'))}."
    options.out.write_text(
        f"# Memory of training\n\nWritten by `python -m benchmarks.training_memory`, {given}\n\n{found}",
        encoding="utf-8",
    )
    shutil.rmtree(options.scratch)
    print(found)


if __name__ == "__main__":
    main()
