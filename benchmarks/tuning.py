"""Whether tuning pays: models with their defaults and with what tuning finds, on labels that neither has seen.

    python -m benchmarks.tuning                              # three worlds of 30,000 displays, cheap models, 10 trials
    python -m benchmarks.tuning --models deepfm --trials 30
    python -m benchmarks.tuning --start params           # from params.yaml, whose values were chosen for such worlds

Each world is simulated with a seed of its own. Every stage runs as DVC runs it: a model is tuned on samples of the
validation split, then its defaults and its winner are each fitted on validation, refitted on all of train and scored on
clicks_test: MAP@12 that its ads' chances of a click, which only the simulation knows, lead to expect (chances.py). Both
rank the same displays, so the standard error is that of the differences by display; it says nothing of other worlds and
other seeds of the fit. Where no set was ahead by more than luck, the defaults stay, and the difference is 0.

The search starts from the defaults of the model's own code, unless told otherwise: what it may change is taken from
params.yaml, which says what has proved good in the default world, and so has been tuned already.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.chances import expected_gain
from benchmarks.measure import ROOT, machine, measured, stage, table
from benchmarks.scale import SPLITS, make_raw, stages, write_params
from pipeline.metrics import weighted_mean
from pipeline.models.base import load_kind
from pipeline.report import test_labels
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.predictions import read_scores
from pipeline.tuning.winner import ahead

MODELS = ("lr", "ffm", "deepfm", "lightgbm")
#: Of the worlds. On 101 to 103 were chosen the margin of a winner and the sets that a search tries first, on 1, which
#: is the default world, what stands in params.yaml.
SEEDS = (104, 105, 106)
STARTS = {"code": "the models' code", "params": "params.yaml"}
UNSCORED = ("lr", "lr_crosses", "fm", "ffm")
PACKAGES = ("optuna", "torch", "lightgbm", "numba", "numpy")
RESULT = ROOT / "benchmarks" / "results" / "tuning.md"


@dataclass(frozen=True, slots=True)
class Result:
    """Of a model in a world. default, tuned: expected MAP@12 of the test. ahead, error: the difference by display.

    found: the winner's parameters; none if the defaults stay. seconds: of tuning.
    """

    model: str
    seed: int
    default: float
    tuned: float
    ahead: float
    error: float
    found: dict[str, Any]
    seconds: float


def make_world(scratch: Path, seed: int, displays: int, tuning: dict[str, Any], models: Sequence[str]) -> Path:
    """A folder with a world, from its raw files to its codes, and the scores that other models read.

    models: those whose search starts from the defaults of their code.
    """
    world = scratch / f"world-{seed}"
    params = write_params(world, displays, "4GB", 0)
    values = yaml.safe_load(params.read_text(encoding="utf-8"))
    values["simulation"]["seed"] = seed
    values["tuning"] |= tuning
    for model in models:
        own = values["models"][model]
        values["models"][model] = {k: v for k, v in own.items() if k not in load_kind(own["kind"]).search_space}
    params.write_text(yaml.safe_dump(values), encoding="utf-8")
    if (world / "ready").exists():
        return world
    make_raw(world, params)
    for _ in stages(world / "raw", world, params):
        pass
    for model in values["out_of_fold"]["models"]:
        fit(world, model, "default")
        for split in SPLITS:
            measured(
                stage(
                    "out_of_fold",
                    *("--params", params, "--model", model, "--encoded", world / "encoded" / split),
                    *("--like", world / "validation" / model / "default"),
                    *("--predictions", predictions(world, split, model, "default")),
                    *("--out", world / "scores" / split / model, "--checkpoint", world / "checkpoint"),
                )
            )
    (world / "ready").touch()
    return world


def predictions(world: Path, split: str, model: str, variant: str) -> Path:
    return world / split / model / f"{variant}.parquet"


def fit(world: Path, model: str, variant: str, *options: object) -> None:
    """Fit on validation, and on all of train for as long; a prediction of each target."""
    like: tuple[object, ...] = ()
    for split in SPLITS:
        out = world / split / model / variant
        command = ("--params", world / "params.yaml", "--model", model, "--encoded", world / "encoded" / split)
        command += ("--out", out, "--predictions", predictions(world, split, model, variant))
        command += ("--checkpoint", world / "checkpoint", *scores(world, split, model), *like, *options)
        measured(stage("train", *command))
        like = ("--like", out)


def scores(world: Path, split: str, model: str) -> tuple[object, ...]:
    """Factorization models read none: that is how the scores are made."""
    return () if model in UNSCORED else ("--scores", world / "scores" / split)


def tune(world: Path, model: str) -> tuple[dict[str, Any], float]:
    """What tuning finds, and the seconds that its trials took."""
    out, journal = world / "tuned" / f"{model}.yaml", world / "studies" / f"{model}.journal"
    command = ("--params", world / "params.yaml", "--model", model, "--encoded", world / "encoded" / SPLITS[0])
    command += ("--study", journal, "--out", out, *scores(world, SPLITS[0], model))
    measured(stage("tune", *command))
    storage = JournalStorage(JournalFileBackend(str(journal)))
    trials = [
        t
        for s in optuna.get_all_study_summaries(storage)
        for t in optuna.load_study(study_name=s.study_name, storage=storage).trials
    ]
    seconds = sum(t.duration.total_seconds() for t in trials if t.duration)
    return yaml.safe_load(out.read_text(encoding="utf-8")), seconds


def compare(world: Path, seed: int, model: str) -> Result:
    """Tune a model, and measure it with and without on the labels of the test."""
    found, seconds = tune(world, model)
    fit(world, model, "default")
    if found:
        fit(world, model, "tuned", "--tuned", world / "tuned" / f"{model}.yaml")
    target = Encoded(world / "encoded" / SPLITS[1]).part("target")
    known = test_labels(world / "truth", target)
    assert known, "a simulated world knows its labels"
    labels, oracle = known
    default, tuned = (
        expected_gain(read_scores(predictions(world, SPLITS[1], model, variant), target), oracle, labels)
        for variant in ("default", "tuned" if found else "default")
    )
    future = np.asarray(labels.slices["future"])
    means = weighted_mean(default, future), weighted_mean(tuned, future)
    return Result(model, seed, *means, *ahead(tuned, default, future), found, seconds)


def summary(results: list[Result]) -> str:
    """A row a model: means over the worlds."""
    rows = []
    for model in dict.fromkeys(result.model for result in results):
        own = [result for result in results if result.model == model]
        n = len(own)
        error = math.sqrt(sum(result.error**2 for result in own)) / n
        better, worse = sum(result.ahead > 0 for result in own), sum(result.ahead < 0 for result in own)
        rows.append(
            [
                model,
                f"{sum(result.default for result in own) / n:.4f}",
                f"{sum(result.tuned for result in own) / n:.4f}",
                f"{sum(result.ahead for result in own) / n:+.4f}",
                f"{error:.4f}",
                better,
                n - better - worse,
                worse,
                f"{sum(result.seconds for result in own) / n:.0f}",
            ]
        )
    header = ["model", "defaults", "tuned", "difference", "standard error", "better", "same", "worse", "tuning: s"]
    return table(header, rows)


def details(results: list[Result]) -> str:
    rows = [
        [
            f"{r.model}, {r.seed}",
            f"{r.default:.4f}",
            f"{r.tuned:.4f}",
            f"{r.ahead:+.4f}",
            f"{r.error:.4f}",
            f"{r.seconds:.0f}",
            ", ".join(f"{name} {value}" for name, value in r.found.items()) or "the defaults",
        ]
        for r in results
    ]
    return table(
        ["model, world", "defaults", "tuned", "difference", "standard error", "tuning: s", "what tuning found"], rows
    )


def write_report(out: Path, results: list[Result], displays: int, trials: int, start: str) -> None:
    worlds = len({result.seed for result in results})
    parts = [
        "# Does tuning pay?\n",
        f"Written by `python -m benchmarks.tuning`, {worlds} worlds of {displays:,} displays, {trials} sets beside the "
        f"defaults, which are those of {STARTS[start]}: {machine(PACKAGES)}.\n",
        "MAP@12 that is to be expected of the test, as means over the worlds; in how many of them the tuned model is "
        "better, the same (where the defaults stay) or worse.\n",
        summary(results),
        details(results),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help=f"of params.yaml (default: {' '.join(MODELS)})")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of the worlds (default: 104 105 106)")
    parser.add_argument("--displays", type=int, default=30_000, help="of a world, train and test (default: 30000)")
    parser.add_argument("--trials", type=int, default=10, help="sets beside the defaults (default: 10)")
    parser.add_argument("--start", choices=STARTS, default="code", help="whose defaults (default: the code's)")
    parser.add_argument("--scratch", type=Path, default=ROOT / "data" / "tuning", help="folder (default: data/tuning)")
    parser.add_argument("--keep", action="store_true", help="keep the worlds, their studies and models")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"the report (default: {RESULT.relative_to(ROOT)})")
    options = parser.parse_args()
    settings = {"trials": options.trials, "displays": options.displays, "minutes": None}
    worlds = {}
    for seed in options.seeds:
        plain = options.models if options.start == "code" else ()
        worlds[seed] = make_world(options.scratch.resolve(), seed, options.displays, settings, plain)
        print(f"world {seed} is there", flush=True)
    results = []
    for seed, world in worlds.items():
        for model in options.models:
            results.append(compare(world, seed, model))
            print(f"world {seed}, {model}: {results[-1].default:.5f} {results[-1].ahead:+.5f}", flush=True)
            write_report(options.out, results, options.displays, options.trials, options.start)
    if not options.keep:
        for world in worlds.values():
            shutil.rmtree(world)
    print(summary(results), f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
