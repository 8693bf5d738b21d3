"""What tuning, training and blending would take on the whole competition, from the log of a run.

    dvc repro --force 2>&1 | tee run.log
    python -m benchmarks.training_time run.log

Each stage says at its end what it took. A stage that learns from a split, or scores it, goes with the split's rows, so
its seconds are multiplied by how many more the competition has: as if models needed as many epochs and rounds there,
though the more there is to learn from, the sooner they stop rising. Of what learns from so many displays at most
(`displays`: trees, and networks, which learn from each once at least) the fit grows up to there, and the scoring, which
is timed here, with all rows. Tuning tries its sets on samples of displays, and a blend is fitted on one, which are as
large there as here, if the world has as many. Nothing else must run beside it.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import ROOT, TEST_ROWS, TRAIN_ROWS, machine, table
from pipeline.blending.blend import BlendConfig
from pipeline.core.config import section
from pipeline.core.files import read_json
from pipeline.models.base import model_config
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.impressions import SplitInfo

#: What a split's rows are made of in the competition: validation cuts its target from train.
ROWS = {"validation": TRAIN_ROWS, "submission": TRAIN_ROWS + TEST_ROWS}
HOURS = 6  # that training and tuning may take
COLUMNS = ("tune", "train", "refit", "out_of_fold")
RESULT = ROOT / "benchmarks" / "results" / "training_time.md"

_STAGE = re.compile(r"Running stage '(\w+?)(?:@([\w-]+))?':")
_TOOK = re.compile(r"took ([\d.]+) s, ")

#: Of a model's stages, those that go with the rows of a split.
SPLIT_OF = {"train": "validation", "refit": "submission", **{f"out_of_fold {name}": name for name in ROWS}}

#: model -> stage, that of `out_of_fold` with its split -> seconds.
Seconds = dict[str, dict[str, float]]


def read_log(text: str) -> Seconds:
    """The seconds of the stages of each model, as the last run of each told them."""
    found: Seconds = defaultdict(dict)
    stage, of = "", ""
    for line in text.splitlines():
        if match := _STAGE.search(line):
            stage, of = match[1], match[2] or ""
        elif (match := _TOOK.search(line)) and stage:
            kind, split, model = stage.split("_")[0], "", of
            if stage == "out_of_fold":
                kind, (split, _, model) = stage, of.partition("-")
            found[model or stage][f"{kind} {split}".strip()] = float(match[1])
            stage = ""
    return {model: stages for model, stages in found.items() if set(stages) & {"tune", "train"}}


class Limited(NamedTuple):
    """Of a model that learns from so many displays at most: by how many times a fit's seconds are multiplied, and the
    seconds of scoring the target, by split."""

    fit: dict[str, float]
    scoring: dict[str, float]


def limited(run: Path, model: str, times: dict[str, float]) -> Limited | None:
    """None if a model learns from all displays."""
    tuned = run / "tuned" / f"{model}.yaml"
    kind, config = model_config(run / "params.yaml", model, tuned if tuned.exists() else None)
    if not hasattr(config, "displays"):
        return None
    fit, scoring = {}, {}
    learned = read_json(run / "artifacts/models/validation" / model / "fit.json")
    epochs = {"validation": learned["curve"][-1]["step"], "submission": learned["length"]}
    for name in ROWS:
        encoded = Encoded(run / "data/encoded" / name, run / "artifacts/out_of_fold" / name)
        displays = encoded.part("history").displays
        if hasattr(config, "epochs"):
            longest = max(1, config.displays / (times[name] * displays))
            fit[name] = times[name] * min(1, longest / epochs[name])
        else:
            fit[name] = min(times[name], max(1, config.displays / displays))
        fitted = kind.build(config)
        fitted.load(run / "artifacts/models" / name / model)
        started = time.perf_counter()
        fitted.predict(encoded.part("target"))
        scoring[name] = time.perf_counter() - started
    return Limited(fit, scoring)


def whole(stages: dict[str, float], times: dict[str, float], limit: Limited | None = None) -> float:
    """Hours on the whole competition. times: by how many each split's rows are multiplied."""
    total = 0.0
    for stage, seconds in stages.items():
        if (split := SPLIT_OF.get(stage)) is None:
            total += seconds
        elif limit is None:
            total += seconds * times[split]
        else:
            scoring = limit.scoring[split]
            total += scoring * times[split] + max(0, seconds - scoring) * limit.fit[split]
    return total / 3600


def report(
    found: Seconds, times: dict[str, float], members: tuple[str, ...], limits: Mapping[str, Limited | None] = {}
) -> str:
    """As a table, with the sums of all models and of those that the blend needs."""
    lines = []
    hours = {model: whole(stages, times, limits.get(model)) for model, stages in found.items()}
    for model, stages in found.items():
        told = [sum(s for stage, s in stages.items() if stage.split()[0] == column) for column in COLUMNS]
        lines.append([model, *(f"{seconds:.0f}" if seconds else "" for seconds in told), f"{hours[model]:.1f}"])
    blank = [""] * len(COLUMNS)
    for name, total in (("all", sum(hours.values())), ("members of the blend", sum(hours.get(m, 0) for m in members))):
        lines.append([name, *blank, f"{total:.1f}"])
    return table(["model", *(f"{column}: s" for column in COLUMNS), "whole: h"], lines)


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("log", type=Path, help="what `dvc repro` has printed")
    command.add_argument("--run", type=Path, default=ROOT, help="the folder in which it ran (default: this one)")
    command.add_argument("--out", type=Path, default=RESULT, help=f"the report (default: {RESULT.relative_to(ROOT)})")
    options = command.parse_args()
    times, displays = {}, 0
    for name, rows in ROWS.items():
        info = SplitInfo.read(options.run / "data/splits" / name)
        times[name], displays = rows / (info.history_rows + info.target_rows), info.history_displays
    members = section(options.run / "params.yaml", "blend", BlendConfig).members
    found = read_log(options.log.read_text(encoding="utf-8", errors="replace"))
    limits = {model: limited(options.run, model, times) for model in found}
    text = report(found, times, members, limits)
    given = f"{displays:,} displays of clicks_train, a {times['submission']:.0f}th of the competition's rows"
    options.out.write_text(
        f"# Time of training\n\nWritten by `python -m benchmarks.training_time`, {given}; budget: {HOURS} hours: "
        f"{machine(('torch', 'lightgbm', 'numba', 'numpy'))}.\n\n{text}",
        encoding="utf-8",
    )
    print(text)


if __name__ == "__main__":
    main()
