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
in CONTESTANTS, or in ALSO if it is to run only where --also asks for it. Contestants `_unshared` get the same rows with
no field declared the same for all ads of a display: what our models save by computing such fields once. All take turns
in some rounds, as the speed of a machine changes in minutes, and the best of each speed counts, with the most memory.
On a busy machine compare the rows per CPU second with --threads 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
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
#: What runs a contestant in a process of its own: NAME FOLDER.
RUN = HERE / "contestants" / "run.py"
#: Script in benchmarks/contestants, and whether it runs in the environment of peers.
CONTESTANTS = {
    "ours": False,
    "ours_listwise": False,
    "ours_normdnn": False,
    "ours_dnn": False,
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
#: The same for those that run only if they are asked for by --also.
ALSO = {
    "ours_lr": False,
    "ours_wide_deep": False,
    "ours_wide_deep_crosses": False,
    "deepctr_torch_wdl": True,
    "ours_dcnv2": False,
    "ours_dcnv2_full": False,
    "deepctr_torch_dcnv2": True,
    "ours_unshared": False,
    "ours_ffm_unshared": False,
    "ours_lightgbm": False,
}
IN_PEERS = CONTESTANTS | ALSO
#: Whose speed is divided by that of each; ours for all others, and its own if that one does not run.
BESIDE = {
    "ours_normdnn": "ours_dnn",
    "ours_dnn": "ours_dnn",
    "ours_deeplight": "ours_deeplight",
    "ours_deeplight_dense": "ours_deeplight",
    "libffm": "ours_ffm",
    "xlearn_ffm": "ours_ffm",
    "xlearn_fm": "ours_fm",
    "ours_ffm": "ours_ffm",
    "ours_fm": "ours_fm",
    "ours_lr": "ours_lr",
    "ours_wide_deep": "ours_wide_deep",
    "ours_wide_deep_crosses": "ours_wide_deep",
    "deepctr_torch_wdl": "ours_wide_deep",
    "ours_dcnv2": "ours_dcnv2",
    "ours_dcnv2_full": "ours_dcnv2",
    "deepctr_torch_dcnv2": "ours_dcnv2_full",
    "ours_ffm_unshared": "ours_ffm",
    "ours_lightgbm": "ours_lightgbm",
}
#: How much longer norms may make training.
NORMS_COST = 1.2

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


def draw_truth(random: np.random.Generator) -> list[NDArray[np.float64]]:
    """A factorization machine: the weight and the embedding (size, 1 + 4) of each field's codes."""
    spread = np.array([0.4, 0.15, 0.15, 0.15, 0.15])  # of weights and of embeddings: most of it is main effects
    return [random.normal(0, spread, (size, 5)) for size in (*DISPLAY_FIELDS, *IMPRESSION_FIELDS)]


def displays_of(rows: int) -> int:
    """How many displays have about so many rows."""
    return round(rows / float(ADS[0] @ ADS[1]))


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


def settings(epochs: int, threads: int) -> dict[str, Any]:
    """What all contestants have in common. rates: among which a factorization machine chooses."""
    return {
        "batch": 4096,
        "epochs": epochs,
        "threads": threads,
        "embedding": 8,
        "hidden": [128, 64],
        "rates": [0.05, 0.1, 0.2, 0.4],
        "sizes": [*DISPLAY_FIELDS, *IMPRESSION_FIELDS],
    }


def write(folder: Path, parts: dict[str, Part], common: dict[str, Any], unshared: bool = False) -> None:
    """The settings, and the same rows as our encoded arrays and as matrices for peers; unshared: and once more as
    encoded arrays in which no field is the same for all ads of a display."""
    per = ["display"] * len(DISPLAY_FIELDS) + ["impression"] * len(IMPRESSION_FIELDS)
    write_encoded(folder / "encoded", parts, per)
    if unshared:
        write_encoded(folder / "unshared", parts, ["impression"] * len(per))
    for name, part in parts.items():
        np.save(folder / f"{name}_codes.npy", part.codes)
        np.save(folder / f"{name}_clicked.npy", part.clicked)
    (folder / "settings.json").write_text(json.dumps(common), encoding="utf-8")


def write_encoded(folder: Path, parts: dict[str, Part], per: Sequence[str]) -> None:
    """The rows as our encoded arrays. per: of each field, display or impression."""
    fields = [
        Field(name=f"f{i}", group="drawn", kind="categorical", per=p, meaning="", size=size)  # type: ignore[arg-type]
        for i, (p, size) in enumerate(zip(per, (*DISPLAY_FIELDS, *IMPRESSION_FIELDS), strict=True))
    ]
    counts: Any = {}
    for name, part in parts.items():
        displays, rows = len(part.offsets) - 1, len(part.codes)
        (folder / name / "fields").mkdir(parents=True)
        for f, column in zip(fields, part.codes.T, strict=True):
            stored = column[part.offsets[:-1]] if f.per == "display" else column
            np.save(folder / name / "fields" / f"{f.name}.npy", stored)
        arrays: dict[str, NDArray[Any]] = {
            "offsets": part.offsets,
            "clicked": part.clicked,
            "display_id": np.arange(displays, dtype=np.uint32),
            "ad_id": np.arange(rows, dtype=np.uint32),
            **{flag: np.zeros(displays, bool) for flag in ("future", *(COLD if name == "target" else ()))},
        }
        for array, values in arrays.items():
            np.save(folder / name / f"{array}.npy", values)
        counts[name] = {"rows": rows, "displays": displays}
    write_fields(folder, fields, counts, "drawn")


def compete(name: str, folder: Path, python: str, threads: int) -> dict[str, Any] | None:
    """Run one contestant; None, and what it said on stderr, if it failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(HERE.parent)}
    environment.setdefault("USER", "nobody")  # xlearn ends at once where it is not set
    command = [python, str(RUN), name, str(folder)]
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
    """As Markdown; ratio: of the speed of the one beside it to its own. CPU seconds are of all threads together."""
    speed = {row["name"]: row for row in rows}
    lines = [
        "| network | beside | training rows/s | ratio | rows/CPU s | inference rows/s | ratio | rows/CPU s "
        "| peak memory MiB | AUC | log loss | MAP@12 |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        name = f"{row['name']} (also)" if row["name"] in ALSO else row["name"]
        scores = f"{row['auc']:.4f} | {row['log_loss']:.4f} | {row['map12']:.4f} |"
        if "training" not in row:
            lines.append(f"| {name} | | | | | | | | | {scores}")
            continue
        beside = speed.get(BESIDE.get(row["name"], "ours"), row)
        speeds = " | ".join(
            f"{row[what]:,.0f} | {beside[what] / row[what]:.1f} | {row[f'{what}_cpu']:,.0f}"
            for what in ("training", "inference")
        )
        lines.append(f"| {name} | {beside['name']} | {speeds} | {row['memory']:,.0f} | {scores}")
    return "\n".join(lines)


def verdicts(rows: list[dict[str, Any]]) -> str:
    """Two tables, each if what it compares has run: what norms cost and bring, and what sharing within a display saves.

    The ratios are of rows/s; of losses and MAP@12, which are of the same rows, the differences are shown.
    """
    found, parts = {row["name"]: row for row in rows}, []
    if {"ours_normdnn", "ours_dnn"} <= found.keys():
        norms, plain = found["ours_normdnn"], found["ours_dnn"]
        cost, gain = plain["training"] / norms["training"], norms["map12"] - plain["map12"]
        parts.append(
            "| norms beside the plain network | found | expected | holds |\n|---|---:|---:|---|\n"
            f"| cost of training | {cost:.2f} | at most {NORMS_COST} | {'yes' if cost <= NORMS_COST else '**no**'} |\n"
            f"| MAP@12 | {gain:+.4f} | no less | {'yes' if gain >= 0 else '**no**'} |\n"
        )
    pairs = [(name, f"{name}_unshared") for name in ("ours", "ours_ffm")]
    lines = [
        f"| {shared} | {found[shared]['training'] / found[by_itself]['training']:.2f} "
        f"| {found[shared]['inference'] / found[by_itself]['inference']:.2f} "
        f"| {found[shared]['log_loss'] - found[by_itself]['log_loss']:+.5f} |\n"
        for shared, by_itself in pairs
        if {shared, by_itself} <= found.keys()
    ]
    if lines:
        head = (
            "| sharing within a display | training faster by | inference faster by | log loss |\n|---|---:|---:|---:|\n"
        )
        parts.append(head + "".join(lines))
    return "\n".join(parts)


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--scratch", type=Path, required=True, help="folder for the data; emptied first")
    command.add_argument("--peers", help="Python of the peers' environment")
    command.add_argument("--rows", type=int, default=1_500_000, help="about how many rows to learn from")
    command.add_argument("--epochs", type=int, default=1)
    command.add_argument("--rounds", type=int, default=2)
    command.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    command.add_argument("--contestants", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS))
    command.add_argument("--also", nargs="+", choices=[*ALSO, "all"], default=[], help="further ones, or all of them")
    command.add_argument("--out", type=Path, default=HERE / "results" / "models.md")
    options = command.parse_args()
    asked = {*options.contestants, *(ALSO if "all" in options.also else options.also)}
    names = [name for name in IN_PEERS if name in asked]
    shutil.rmtree(options.scratch, ignore_errors=True)
    options.scratch.mkdir(parents=True)
    random = np.random.default_rng(1)
    truth, displays = draw_truth(random), displays_of(options.rows)
    parts = {name: draw(random, n, truth) for name, n in (("history", displays), ("target", displays // 5))}
    unshared = any(name.endswith("_unshared") for name in names)
    write(options.scratch, parts, settings(options.epochs, options.threads), unshared)
    best: dict[str, dict[str, Any]] = {}
    for _ in range(options.rounds):
        for name in names:
            python = options.peers if IN_PEERS[name] else sys.executable
            found = None if python is None else compete(name, options.scratch, python, options.threads)
            if found is not None:
                before = best.get(name, found)
                score = np.load(options.scratch / f"{name}.npy")
                speeds = {what: max(found[what], before[what]) for what in found}
                best[name] = {**speeds, "name": name, **quality(score, parts["target"])}
                print(table([best[name]]).splitlines()[-1], flush=True)
    rows = [best[name] for name in names if name in best]
    rows.append({"name": "the truth", **quality(best_logit(parts["target"]), parts["target"])})
    counts = {name: len(part.codes) for name, part in parts.items()}
    also = f" --also {' '.join(options.also)}" if options.also else ""
    text = (
        f"# Networks\n\n`python benchmarks/models.py --rows {options.rows} --epochs {options.epochs} "
        f"--rounds {options.rounds} --threads {options.threads}{also}`: "
        f"{counts['history']:,} rows to learn from, {counts['target']:,} to score, "
        f"{parts['history'].codes.shape[1]} fields, {len(DISPLAY_FIELDS)} of them the same for all ads of a display. "
        "Ratio: the rows/s of the one beside it to its own. (also): runs if --also asks for it.\n\n"
        f"{table(rows)}\n\n{verdicts(rows)}"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
