"""Scores of history by fits that have not learned from the display, and how other models read them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import training
from pipeline.core.errors import InputError, ParameterError
from pipeline.core.runtime import RuntimeConfig
from pipeline.factorization.model import FactorizationModel
from pipeline.metrics import map12, reciprocal_rank, tie_hash
from pipeline.models.base import load_kind
from pipeline.out_of_fold import out_of_fold
from pipeline.schemas.encoded import Encoded, Field
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.predictions import labels_of, write_predictions
from pipeline.tuning.sample import sample
from tests.synthetic import by_chance, write_mixed

FOLDS = 2


@pytest.fixture
def world(tmp_path: Path) -> Encoded:
    return write_mixed(tmp_path / "encoded", displays=200)


def scored(world: Encoded, folder: Path, kind: str = "lr", folds: int = FOLDS, seeds: int = 1, **values: Any) -> Path:
    """The folder of lr's scores of a world."""
    target = world.part("target")
    write_predictions(folder / "p.parquet", target, np.arange(target.rows, dtype=np.float32))
    model = load_kind(kind)
    options = FitOptions(runtime=RuntimeConfig(threads=1), length=1.0, checkpoint=folder / "checkpoint")
    config, predictions, out = model.config(**values), folder / "p.parquet", folder / "s/base"
    out_of_fold("base", model, config, world, options, folds, predictions, out, seeds)
    return folder / "s"


def fold_of(world: Encoded) -> NDArray[np.int64]:
    """By row of history."""
    history = world.part("history")
    display = np.asarray(history.array("display_id"))
    return np.repeat(tie_hash(display, np.zeros_like(display)) % np.uint64(FOLDS), np.diff(history.offsets)).astype(int)


def test_no_score_knows_its_own_label(world: Encoded, tmp_path: Path) -> None:
    """With one fold's clicks changed, its own scores stay and the other's change."""
    before = np.load(scored(world, tmp_path / "a") / "base/history.npy")
    rows, path = fold_of(world) == 1, world.folder / "history/clicked.npy"
    offsets, clicked = world.part("history").offsets, np.load(path)
    for first, last in pairwise(offsets):
        if rows[first]:
            clicked[first:last] = np.roll(clicked[first:last], 1)
    np.save(path, clicked)
    after = np.load(scored(world, tmp_path / "b") / "base/history.npy")
    assert np.array_equal(before[rows], after[rows])
    assert not np.array_equal(before[~rows], after[~rows])


def test_shuffled_labels_leave_no_signal(tmp_path: Path) -> None:
    """With clicks that mean nothing, the score ranks history's own clicks neither better nor worse than chance."""
    history = write_mixed(tmp_path / "world", displays=1000).part("history")
    lengths, gains = np.diff(history.offsets), []
    for seed in range(3):
        shuffled = Encoded(shutil.copytree(tmp_path / "world", tmp_path / f"world{seed}"))
        clicked = np.zeros(history.rows, np.uint8)
        clicked[history.offsets[:-1] + np.random.default_rng(seed).integers(0, lengths)] = 1
        np.save(shuffled.folder / "history" / "clicked.npy", clicked)
        score = np.load(scored(shuffled, tmp_path / f"{seed}") / "base/history.npy")
        ids = (np.asarray(history.array(name)) for name in ("display_id", "ad_id"))
        gains.append(reciprocal_rank(score, clicked, history.offsets, *ids))
    expected, error = by_chance(tuple(lengths.tolist() * 3))
    assert abs(np.concatenate(gains).mean() - expected) < 4 * error


def test_scores_are_a_field_like_any_other(world: Encoded, tmp_path: Path) -> None:
    read = Encoded(world.folder, scored(world, tmp_path))
    field, target = read.fields["base_score"], read.part("target")
    history = np.asarray(read.part("history").field("base_score"))
    assert (field.kind, field.group, field.scope) == ("numeric", "scores", "out-of-fold")
    assert field.mean == pytest.approx(history.mean(), abs=1e-6)
    assert np.array_equal(target.field("base_score"), np.arange(target.rows))
    assert map12(history, labels_of(read.part("history"))) > 0.8
    assert read.digest != world.digest
    trees = load_kind("lightgbm")
    options = FitOptions(runtime=RuntimeConfig(threads=1), length=5.0)
    model = trees.build(trees.config(groups=("scores",), min_data_in_leaf=5))
    model.fit(read, options)
    assert map12(model.predict(read.part("history")), labels_of(read.part("history"))) > 0.8
    part = sample(read, 100, 1, tmp_path / "sample").part("history")
    assert set(np.asarray(part.field("base_score")).tolist()) < set(history.tolist())


def test_what_knows_of_the_future_says_so(world: Encoded, tmp_path: Path) -> None:
    fields = [replace(f, scope="future") if f.name == "rate" else f for f in world.fields.values()]
    world.fields = {f.name: f for f in fields}
    scopes = {"a": ("static",), "b": ("static", "future")}
    found: dict[str, Field] = {
        name: Encoded(world.folder, scored(world, tmp_path / name, scopes=chosen)).fields["base_score"]
        for name, chosen in scopes.items()
    }
    assert {name: field.scope for name, field in found.items()} == {"a": "out-of-fold", "b": "out-of-fold-future"}
    crossed = scored(world, tmp_path / "c", scopes=("static",), crosses=("page x rate",))
    assert Encoded(world.folder, crossed).fields["base_score"].scope == "out-of-fold-future"


def test_history_is_scored_by_as_many_seeds_as_the_target(world: Encoded, tmp_path: Path) -> None:
    alone = [np.load(scored(world, tmp_path / f"{s}", "fm", seed=s) / "base/history.npy") for s in (1, 2, 3)]
    together = np.load(scored(world, tmp_path / "all", "fm", seeds=3) / "base/history.npy")
    assert not np.array_equal(alone[0], alone[1])
    np.testing.assert_allclose(together, np.mean(np.float64(alone), axis=0), rtol=1e-6, atol=1e-7)


def test_a_fold_that_older_code_scored_is_scored_again(
    world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = (scored(world, tmp_path / "whole") / "base/history.npy").read_bytes()
    predict = FactorizationModel.predict
    with monkeypatch.context() as patched:
        patched.setattr(FactorizationModel, "predict", lambda self, part: predict(self, part) + 1)
        patched.setattr("pipeline.out_of_fold.write_scores", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scored(world, tmp_path / "killed")
    assert len(list((tmp_path / "killed/checkpoint").glob("*.npy"))) == 1
    monkeypatch.setattr(training, "__file__", str(tmp_path / "changed" / "training.py"))
    assert (scored(world, tmp_path / "killed") / "base/history.npy").read_bytes() == expected


def interrupted(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_a_killed_run_goes_on(world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one seed's fits gave before the end is not computed again, and the result is the same."""
    seeds = 2
    expected = (scored(world, tmp_path / "whole", seeds=seeds) / "base/history.npy").read_bytes()
    fits, fit = [], FactorizationModel.fit

    def counted(self: FactorizationModel, encoded: Encoded, options: FitOptions) -> Any:
        fits.append(options)
        if len(fits) == seeds:
            raise KeyboardInterrupt
        return fit(self, encoded, options)

    monkeypatch.setattr(FactorizationModel, "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        scored(world, tmp_path / "killed", seeds=seeds)
    assert not (tmp_path / "killed/s/base").exists()
    assert (scored(world, tmp_path / "killed", seeds=seeds) / "base/history.npy").read_bytes() == expected
    assert len(fits) == seeds + 1
    assert not (tmp_path / "killed/checkpoint").exists()


def test_what_does_not_fit_is_refused(world: Encoded, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least 1000 displays, found"):
        scored(world, tmp_path / "a", folds=1000)
    with pytest.raises(ParameterError, match="kind lightgbm learns from all of history; expected lr, fm or ffm"):
        scored(world, tmp_path / "b", kind="lightgbm")
    assert not (tmp_path / "b/s/base").exists()
    other = write_mixed(tmp_path / "other", displays=50)
    description = (other.folder / "fields.json").read_text(encoding="utf-8")
    (other.folder / "fields.json").write_text(description.replace("synthetic", "other"), encoding="utf-8")
    with pytest.raises(InputError, match="scores of other data"):
        Encoded(other.folder, scored(world, tmp_path / "c"))
