"""Networks of this project beside those of others, in one run on one machine: speed, memory and what they have learned.

    python benchmarks/models.py --scratch FOLDER --peers PYTHON

All contestants get the same rows, fields, embedding size, layers, batch and epochs. Networks learn by Adam at its
default rate without regularisation; factorization machines as libffm and xlearn do by default (AdaGrad, k = 4 for FFM),
but for the rates of FM, both ours and xlearn's, which are chosen on rows held out of those to learn from. DeepLight
runs twice, pruned and whole. Boosted trees are as by default, whatever the epochs. PYTHON is the interpreter of an
environment made as benchmarks/requirements-peers.txt says; without it only our own environment's contestants run. The
data is drawn in displays from a known factorization machine, so the best possible scores are known too; as in the
competition, more than half of the fields are the same for all ads of a display. Each contestant is a script of
benchmarks/contestants, and runs in a process of its own: to add one, write a script with `run(benchmark)` and name it
in CONTESTANTS. All take turns in some rounds, as the speed of a machine changes in minutes, and the best of each
speed counts, with the most memory. On a busy machine compare the rows per CPU second with --threads 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.metrics import auc, log_loss, reciprocal_rank
from pipeline.schemas.encoded import Field, write_fields
from pipeline.schemas.impressions import COLD

HERE = Path(__file__).parent
#: Script in benchmarks/contestants, and whether it runs in the environment of peers.
CONTESTANTS = {
    "ours": False,
    "ours_listwise": False,
    "ours_normdnn": False,
    "deepctr_torch_deepfm": True,
    "fuxictr_deepfm": True,
    "fuxictr_layers": True,
    "ours_deeplight": False,
    "ours_deeplight_dense": False,
    "ours_ffm": False,
    "libffm": True,
    "xlearn_ffm": True,
    "ours_fm": False,
    "xlearn_fm": True,
    "lightgbm_defaults": False,
    "xgboost_defaults": True,
}
#: Whose speed is divided by that of each; ours for all others.
OURS = {
    "ours_deeplight": "ours_deeplight",
    "ours_deeplight_dense": "ours_deeplight",
    "libffm": "ours_ffm",
    "xlearn_ffm": "ours_ffm",
    "xlearn_fm": "ours_fm",
    "ours_ffm": "ours_ffm",
    "ours_fm": "ours_fm",
}

#: Codes of each field: user, page, time, place, documents viewed ..., then ad, document, campaign, advertiser ...
DISPLAY_FIELDS = (50, 24, 4, 200, 2000, 15000, 60000, 100, 300, 97, 1000, 5000, 30000)
IMPRESSION_FIELDS = (100000, 30000, 20000, 4000, 10000, 1000, 97, 300, 32, 32, 64)
ADS = np.array([2, 3, 4, 5, 6, 7, 8, 10, 12]), np.array([0.05, 0.08, 0.3, 0.1, 0.32, 0.03, 0.06, 0.03, 0.03])


@dataclass(frozen=True, slots=True)
class Part:
    """offsets (D + 1,). codes (N, F): of displays first. clicked, logit (N,)."""

    offsets: NDArray[np.int64]
    codes: NDArray[np.int32]
    clicked: NDArray[np.uint8]
    logit: NDArray[np.float64]


def draw(random: np.random.Generator, displays: int, truth: list[NDArray[np.float64]]) -> Part:
    """Displays whose click is drawn from the softmax of a factorization machine's logits."""
    lengths = random.choice(ADS[0], displays, p=ADS[1])
    offsets = np.append(0, np.cumsum(lengths))
    rows = int(offsets[-1])
    columns = []
    for i, size in enumerate((*DISPLAY_FIELDS, *IMPRESSION_FIELDS)):
        shared = i < len(DISPLAY_FIELDS)
        code = (size * random.random(displays if shared else rows) ** 3).astype(np.int32)  # low codes are frequent
        columns.append(np.repeat(code, lengths) if shared else code)
    codes = np.stack(columns, axis=1)
    logit = np.concatenate([_logit(piece, truth) for piece in np.array_split(codes, max(1, rows // 100_000))])
    noisy = logit + random.gumbel(size=rows)
    best = np.repeat(np.maximum.reduceat(noisy, offsets[:-1]), lengths)
    return Part(offsets, codes, (noisy == best).astype(np.uint8), logit)


def _logit(codes: NDArray[np.int32], truth: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    drawn = np.stack([table[codes[:, i]] for i, table in enumerate(truth)], axis=1)  # (n, F, 1 + 4)
    embeddings = drawn[:, :, 1:]
    pairs = 0.5 * (embeddings.sum(1) ** 2 - (embeddings**2).sum(1)).sum(1)
    return drawn[:, :, 0].sum(1) + pairs


def write(folder: Path, parts: dict[str, Part]) -> None:
    """The same rows as our encoded arrays, and as matrices for peers."""
    sizes = (*DISPLAY_FIELDS, *IMPRESSION_FIELDS)
    per = ["display"] * len(DISPLAY_FIELDS) + ["impression"] * len(IMPRESSION_FIELDS)
    fields = [
        Field(name=f"f{i}", group="drawn", kind="categorical", per=p, meaning="", size=size)  # type: ignore[arg-type]
        for i, (p, size) in enumerate(zip(per, sizes, strict=True))
    ]
    counts: Any = {}
    for name, part in parts.items():
        displays, rows = len(part.offsets) - 1, len(part.codes)
        (folder / "encoded" / name / "fields").mkdir(parents=True)
        for f, column in zip(fields, part.codes.T, strict=True):
            stored = column[part.offsets[:-1]] if f.per == "display" else column
            np.save(folder / "encoded" / name / "fields" / f"{f.name}.npy", stored)
        arrays: dict[str, NDArray[Any]] = {
            "offsets": part.offsets,
            "clicked": part.clicked,
            "display_id": np.arange(displays, dtype=np.uint32),
            "ad_id": np.arange(rows, dtype=np.uint32),
            **{flag: np.zeros(displays, bool) for flag in ("future", *(COLD if name == "target" else ()))},
        }
        for array, values in arrays.items():
            np.save(folder / "encoded" / name / f"{array}.npy", values)
        np.save(folder / f"{name}_codes.npy", part.codes)
        np.save(folder / f"{name}_clicked.npy", part.clicked)
        counts[name] = {"rows": rows, "displays": displays}
    write_fields(folder / "encoded", fields, counts, "drawn")


def compete(name: str, folder: Path, python: str, threads: int) -> dict[str, Any] | None:
    """Run one contestant; None, and what it said on stderr, if it failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(HERE.parent)}
    environment.setdefault("USER", "nobody")  # xlearn ends at once where it is not set
    command = [python, str(HERE / "contestants" / "run.py"), name, str(folder)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def quality(score: NDArray[Any], part: Part) -> dict[str, float]:
    displays = np.arange(len(part.offsets) - 1)
    gain = reciprocal_rank(score, part.clicked, part.offsets, displays, np.arange(len(score)))
    return {"auc": auc(score, part.clicked), "log_loss": log_loss(score, part.clicked), "map12": float(gain.mean())}


def best_logit(part: Part) -> NDArray[np.float64]:
    """The logit of the true chance of a click."""
    lengths = np.diff(part.offsets)
    weight = np.exp(part.logit - np.repeat(np.maximum.reduceat(part.logit, part.offsets[:-1]), lengths))
    p = weight / np.repeat(np.add.reduceat(weight, part.offsets[:-1]), lengths)
    return np.log(p) - np.log1p(-p)


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown, with the ratio of our speed to each; CPU seconds are of all threads together."""
    speed = {row["name"]: row for row in rows}
    lines = [
        "| network | training rows/s | ours / its | rows/CPU s | inference rows/s | ours / its | rows/CPU s "
        "| peak memory MiB | AUC | log loss | MAP@12 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        scores = f"{row['auc']:.4f} | {row['log_loss']:.4f} | {row['map12']:.4f} |"
        if "training" not in row:
            lines.append(f"| {row['name']} | | | | | | | | {scores}")
            continue
        ours = speed.get(OURS.get(row["name"], "ours"), row)
        speeds = " | ".join(
            f"{row[what]:,.0f} | {ours[what] / row[what]:.1f} | {row[f'{what}_cpu']:,.0f}"
            for what in ("training", "inference")
        )
        lines.append(f"| {row['name']} | {speeds} | {row['memory']:,.0f} | {scores}")
    return "\n".join(lines)


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--scratch", type=Path, required=True, help="folder for the data; emptied first")
    command.add_argument("--peers", help="Python of the peers' environment")
    command.add_argument("--rows", type=int, default=1_500_000, help="about how many rows to learn from")
    command.add_argument("--epochs", type=int, default=1)
    command.add_argument("--rounds", type=int, default=2)
    command.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    command.add_argument("--contestants", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS))
    command.add_argument("--out", type=Path, default=HERE / "results" / "models.md")
    options = command.parse_args()
    shutil.rmtree(options.scratch, ignore_errors=True)
    options.scratch.mkdir(parents=True)
    random = np.random.default_rng(1)
    spread = np.array([0.4, 0.15, 0.15, 0.15, 0.15])  # of weights and of embeddings: most of it is main effects
    truth = [random.normal(0, spread, (size, 5)) for size in (*DISPLAY_FIELDS, *IMPRESSION_FIELDS)]
    displays = round(options.rows / float(ADS[0] @ ADS[1]))
    parts = {name: draw(random, n, truth) for name, n in (("history", displays), ("target", displays // 5))}
    write(options.scratch, parts)
    settings = {
        "batch": 4096,
        "epochs": options.epochs,
        "threads": options.threads,
        "embedding": 8,
        "hidden": [128, 64],
    }
    settings["sizes"] = [*DISPLAY_FIELDS, *IMPRESSION_FIELDS]
    (options.scratch / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    best: dict[str, dict[str, Any]] = {}
    for _ in range(options.rounds):
        for name in options.contestants:
            python = options.peers if CONTESTANTS[name] else sys.executable
            found = None if python is None else compete(name, options.scratch, python, options.threads)
            if found is not None:
                before = best.get(name, found)
                score = np.load(options.scratch / f"{name}.npy")
                speeds = {what: max(found[what], before[what]) for what in found}
                best[name] = {**speeds, "name": name, **quality(score, parts["target"])}
                print(table([best[name]]).splitlines()[-1], flush=True)
    rows = [best[name] for name in options.contestants if name in best]
    rows.append({"name": "the truth", **quality(best_logit(parts["target"]), parts["target"])})
    counts = {name: len(part.codes) for name, part in parts.items()}
    text = (
        f"# Networks\n\n`python benchmarks/models.py --rows {options.rows} --epochs {options.epochs} "
        f"--rounds {options.rounds} --threads {options.threads}`: "
        f"{counts['history']:,} rows to learn from, {counts['target']:,} to score, "
        f"{len(settings['sizes'])} fields, {len(DISPLAY_FIELDS)} of them the same for all ads of a display.\n\n"
        f"{table(rows)}\n"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
