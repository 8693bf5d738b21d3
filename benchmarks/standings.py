"""What a run of the pipeline is worth: its scores beside what others learn from the same raw ids by their defaults.

    python -m benchmarks.standings --peers PYTHON

Reads the run that stands in the working tree, whose world must be simulated: the labels of clicks_test are known then.
Others get every id of a display, its page, its ads and its place and time, coded as our models read them, and neither
click rates nor page views: LightGBM, XGBoost and libffm as they are by default (contestants of benchmarks/models.py,
learning from all of clicks_train, as our submission does). PYTHON is the interpreter of an environment made as
benchmarks/requirements-peers.txt says; without it LightGBM competes alone. One line more is what a script of one file
comes to: LightGBM by its defaults on some of our click rates, the likeness of user and ad by topic, and the leak.
What is to be expected of a ranking, by the true chances of the test's ads (chances.py), says more than the one draw of
clicks that the test's labels are, and ranks the lines; by it goes, too, how far the blend is ahead.
--truth names the truth of a world that did not come from our simulation (benchmarks/other_world.py). --without fits our
`lightgbm` to all feature groups, to all but each of some, and to all but all of these.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.chances import expected_gain
from benchmarks.measure import ROOT, machine, table
from benchmarks.models import CONTESTANTS, compete
from pipeline.core.files import read_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.metrics import Judged, standard_error, weighted_mean
from pipeline.models.base import model_config
from pipeline.models.lightgbm import Config, GradientBoostedTrees
from pipeline.report import test_labels
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.predictions import read_scores
from pipeline.training import trained_length

PEERS = ("lightgbm_defaults", "xgboost_defaults", "libffm")
GROUPS = ("ids", "context")
LIBFFM_EPOCHS = 15  # its default
#: What a script of one file would make of the raw files: 14 smoothed click rates, a profile of the user, the leak.
SCRIPT = (
    *("ad_rate", "ad_document_rate", "campaign_rate", "advertiser_rate"),
    *("ad_by_publisher", "ad_by_country", "ad_by_platform", "ad_by_daypart"),
    *("campaign_by_publisher", "campaign_by_source", "campaign_by_country", "campaign_by_platform"),
    *("advertiser_by_publisher", "advertiser_by_country"),
    *("user_ad_topic", "leak"),
)
RESULT = ROOT / "benchmarks" / "results" / "standings.md"


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--run", type=Path, default=ROOT, help="folder in which `dvc repro` ran")
    command.add_argument("--truth", type=Path, help="folder of the hidden labels (default: data/truth of the run)")
    command.add_argument("--without", nargs="+", default=[], metavar="GROUP", help="feature groups to do without")
    command.add_argument("--peers", help="Python of the peers' environment")
    command.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    command.add_argument("--out", type=Path, default=RESULT)
    options = command.parse_args()
    encoded = Encoded(options.run / "data/encoded/submission")
    target = encoded.part("target")
    truth = options.truth or options.run / "data/truth"
    known = test_labels(truth, target)
    if known is None:
        sys.exit(f"{truth}: the labels of clicks_test are not known; run `dvc repro` with data.source: simulated")
    labels, oracle = known
    predictions = options.run / "artifacts/predictions/submission"
    if not (predictions / "ad_ctr.parquet").exists():
        sys.exit(f"{predictions}: what ad CTR comes to is missing; run `dvc repro refit_baseline@ad_ctr`")
    scores = {path.stem: read_scores(path, target) for path in sorted(predictions.glob("*.parquet"))}
    scores |= {"blend": read_scores(options.run / "artifacts/blend/submission.parquet", target), "oracle": oracle}
    if all(name in encoded.fields for name in SCRIPT):
        scores["lightgbm_defaults on 14 click rates, topics and the leak"] = of_a_script(encoded, options.threads)
    if options.without:
        for left_out in ([], *([group] for group in options.without), options.without):
            name = f"trees on all groups{' but ' if left_out else ''}{', '.join(left_out)}"
            scores[name] = of_trees_without(options.run, left_out, options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        fields = write_codes(encoded, Path(scratch), options.threads)
        for name in PEERS:
            python = options.peers if CONTESTANTS[name] else sys.executable
            if python is not None and compete(name, Path(scratch), python, options.threads) is not None:
                scores[f"{name} on {fields} ids"] = np.load(Path(scratch) / f"{name}.npy")
    future = np.asarray(labels.slices["future"])
    found = {name: weighted_mean(Judged.of(score, labels).gain, future) for name, score in scores.items()}
    expected = {name: expected_gain(score, oracle, labels) for name, score in scores.items()}
    means = {name: weighted_mean(gain, future) for name, gain in expected.items()}
    validated = {path.stem: read_json(path)["map12"] for path in (options.run / "metrics").glob("*.json")}
    gap = means["oracle"] - means["ad_ctr"]
    rows = [
        [
            name,
            f"{validated[name]:.5f}" if name in validated else "",
            f"{found[name]:.5f}",
            f"{means[name]:.5f}",
            f"{(means[name] - means['ad_ctr']) / gap:.1%}",
            f"{means['blend'] - means[name]:+.5f}",
            f"{standard_error(expected['blend'] - expected[name], future):.5f}",
        ]
        for name in sorted(means, key=lambda name: -means[name])
    ]
    head = ["scores", "MAP@12 on validation", "on test", "to be expected there", "of the gap from ad CTR to the oracle"]
    text = (
        f"# Standings\n\nWritten by `python -m benchmarks.standings`, {target.displays:,} displays of clicks_test, "
        f"{encoded.part('history').displays:,} of clicks_train: {machine(('lightgbm', 'torch', 'numpy'))}.\n\n"
        + table([*head, "blend ahead by", "error"], rows)
    )
    options.out.write_text(text, encoding="utf-8")
    print(text)


def of_a_script(encoded: Encoded, threads: int) -> NDArray[np.float32]:
    """The target's scores (N,) by LightGBM's default trees on a few fields."""
    config = Config(
        fields=SCRIPT,
        objective="binary",
        num_leaves=31,
        learning_rate=0.1,
        min_data_in_leaf=20,
        feature_fraction=1.0,
        bagging_fraction=1.0,
        lambda_l2=0.0,
    )
    model = GradientBoostedTrees(config)
    model.fit(encoded, FitOptions(runtime=RuntimeConfig(threads=threads), length=100))
    return model.predict(encoded.part("target"))


def of_trees_without(run: Path, groups: Sequence[str], threads: int) -> NDArray[np.float32]:
    """The target's scores (N,) by the run's `lightgbm` without some feature groups and what other models say."""
    encoded = Encoded(run / "data/encoded/submission")
    config = model_config(run / "params.yaml", "lightgbm", run / "tuned/lightgbm.yaml")[1]
    kept = tuple(sorted({field.group for field in encoded.fields.values()} - set(groups)))
    model = GradientBoostedTrees(replace(config, groups=kept))
    length = trained_length(run / "artifacts/models/validation/lightgbm")
    model.fit(encoded, FitOptions(runtime=RuntimeConfig(threads=threads), length=length))
    return model.predict(encoded.part("target"))


def write_codes(encoded: Encoded, folder: Path, threads: int) -> int:
    """What contestants read: the codes of all single-valued categorical fields of GROUPS; returns how many."""
    fields = [f for f in encoded.select(GROUPS, (), ()) if f.kind == "categorical" and f.twin is None]
    for name in ("history", "target"):
        part = encoded.part(name)
        rows = np.arange(part.rows)
        codes: list[NDArray[np.int32]] = [part.values(field, rows).astype(np.int32) for field in fields]
        np.save(folder / f"{name}_codes.npy", np.stack(codes, axis=1))
        clicked = part.array("clicked") if name == "history" else np.zeros(part.rows, np.uint8)  # not for contestants
        np.save(folder / f"{name}_clicked.npy", np.asarray(clicked))
    settings = {"threads": threads, "epochs": LIBFFM_EPOCHS, "sizes": [field.size for field in fields]}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return len(fields)


if __name__ == "__main__":
    main()
