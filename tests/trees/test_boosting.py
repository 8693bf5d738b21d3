"""Boosted trees: a killed run ends like an undisturbed one, and blocks of rows make the data set of a whole matrix."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import lightgbm as lgb
import numpy as np
import pytest

from pipeline.core.runtime import RuntimeConfig
from pipeline.metrics import map12
from pipeline.models.lightgbm import Config, GradientBoostedTrees
from pipeline.schemas import encoded
from pipeline.schemas.encoded import Encoded, drawn
from pipeline.schemas.fitting import FitOptions, Fitted
from pipeline.schemas.predictions import labels_of
from pipeline.trees import dataset
from pipeline.trees.dataset import Rows, binned, scores
from tests.synthetic import MIXED, mixed, write_encoded, write_mixed

REPOSITORY = Path(__file__).parents[2]
#: Everything that LightGBM draws random numbers for.
CONFIG = Config(
    rounds=30,
    segment=4,
    evaluate_every=3,
    patience=30,
    learning_rate=0.2,
    num_leaves=7,
    min_data_in_leaf=5,
    feature_fraction=0.6,
    bagging_fraction=0.7,
    checkpoint_minutes=0.0,
)
T = TypeVar("T")
OBJECTIVES = ("listwise", "lambdarank", "rank_xendcg", "binary")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return write_mixed(tmp_path_factory.mktemp("boosting") / "encoded", displays=300, seed=4)


def fit(world: Encoded, config: Config, **options: Any) -> tuple[GradientBoostedTrees, Fitted]:
    model = GradientBoostedTrees(config)
    return model, model.fit(world, FitOptions(runtime=RuntimeConfig(threads=1), **options))


def saved(model: GradientBoostedTrees, folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a model."""
    folder.mkdir(parents=True)
    model.save(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- killed runs --------------------------------------------------------------------------------------------------

SLOW_RUN = """
import sys, time
from dataclasses import replace
from pathlib import Path
import lightgbm as lgb
from pipeline.schemas.encoded import Encoded, drawn
from tests.trees.test_boosting import CONFIG, fit

update = lgb.Booster.update
def slowly(self, *arguments):
    time.sleep(0.05)
    return update(self, *arguments)
lgb.Booster.update = slowly
folder, checkpoint, objective, length = sys.argv[1:]
fit(
    Encoded(Path(folder)),
    replace(CONFIG, objective=objective),
    checkpoint=Path(checkpoint),
    length=float(length) or None,
)
"""


def run_and_kill(world: Encoded, checkpoint: Path, objective: str, length: float | None, delay: float) -> None:
    """A process of its own that is killed some time after it has written its first checkpoint, wherever it is then."""
    arguments = [str(world.folder), str(checkpoint), objective, str(length or 0)]
    environment = {**os.environ, "PYTHONPATH": "."}
    with subprocess.Popen([sys.executable, "-c", SLOW_RUN, *arguments], cwd=REPOSITORY, env=environment) as process:
        while not list(checkpoint.glob("*/trees.npz")):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def counted(monkeypatch: pytest.MonkeyPatch, fitting: Callable[[], T]) -> tuple[int, T]:
    """How many trees are grown by `fitting`, and what it returns."""
    grown, update = 0, lgb.Booster.update

    def count(self: lgb.Booster, *arguments: Any) -> Any:
        nonlocal grown
        grown += 1
        return update(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(lgb.Booster, "update", count)
        result = fitting()
    return grown, result


@pytest.mark.parametrize(
    ("objective", "length"),
    [("listwise", None), ("lambdarank", None), ("rank_xendcg", 27.0), ("binary", None)],
)
def test_a_killed_run_ends_as_an_undisturbed_one(
    world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: Any, length: float | None
) -> None:
    """Byte by byte, wherever the kill falls; and it does not begin again."""
    config = replace(CONFIG, objective=objective)
    undisturbed, expected = fit(world, config, length=length)
    run_and_kill(world, tmp_path / "checkpoint", objective, length, np.random.default_rng().uniform(0, 0.6))
    grown, (resumed, fitted) = counted(
        monkeypatch, lambda: fit(world, config, length=length, checkpoint=tmp_path / "checkpoint")
    )
    assert 0 < grown <= (length or config.rounds) - config.segment
    assert fitted == expected
    assert saved(resumed, tmp_path / "resumed") == saved(undisturbed, tmp_path / "undisturbed")


def test_a_fit_stops_at_any_round(world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends it in the midst of a segment, it goes on from the last one, and a second end loses nothing."""
    config = replace(CONFIG, rounds=20)
    expected = saved(fit(world, config)[0], tmp_path / "expected")
    for after in (2, 3, 5):  # measurements of this run, every third round

        def stop(step: int, score: float, started: list[int] = [], after: int = after) -> None:  # noqa: B006
            started.append(step)
            if len(started) % after == 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(world, config, checkpoint=tmp_path / "checkpoint", report=stop)
    grown, (model, _) = counted(monkeypatch, lambda: fit(world, config, checkpoint=tmp_path / "checkpoint"))
    assert grown <= 8
    assert saved(model, tmp_path / "model") == expected


def test_what_no_longer_fits_is_not_used(world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another config, length or data begin from the first tree."""
    history = mixed(np.random.default_rng(3), 60)
    other = write_encoded(tmp_path / "encoded", MIXED, history, history, digest="other")
    checkpoint = tmp_path / "checkpoint"
    assert counted(monkeypatch, lambda: fit(world, CONFIG, checkpoint=checkpoint))[0] == CONFIG.rounds
    assert counted(monkeypatch, lambda: fit(world, CONFIG, checkpoint=checkpoint))[0] == 0
    for data, config, length in (
        (world, replace(CONFIG, lambda_l2=2.0), None),
        (world, CONFIG, float(CONFIG.rounds)),
        (other, CONFIG, None),
    ):
        again = counted(monkeypatch, lambda d=data, c=config, n=length: fit(d, c, length=n, checkpoint=checkpoint))
        assert again[0] == CONFIG.rounds


# --- trees --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_segments_go_on_from_each_other(world: Encoded, objective: Any) -> None:
    """What is measured on the way is what the trees so far predict: no segment forgets those before it."""
    config, target = replace(CONFIG, objective=objective), world.part("target")
    model, fitted = fit(world, config)
    assert model.booster is not None
    measured = {int(point["step"]): point["map12"] for point in fitted.curve}
    assert set(measured) == {1, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30}
    for rounds in (r for r in measured if r <= model.booster.num_trees()):
        part = lgb.Booster(model_str=model.booster.model_to_string(num_iteration=rounds))
        score = scores(part, target, model.fields)
        assert map12(score, labels_of(target)) == pytest.approx(measured[rounds], abs=1e-12), rounds


def test_segments_have_seeds_of_their_own(world: Encoded) -> None:
    """Else the first tree of each would be grown from the same rows and fields."""
    model, _ = fit(world, replace(CONFIG, feature_fraction=0.2, bagging_fraction=1.0), length=40.0)
    assert model.booster is not None
    first = [tree["tree_structure"]["split_feature"] for tree in model.booster.dump_model()["tree_info"]][::4]
    assert len(first) == 10
    assert len(set(first)) >= 3


# --- data sets ----------------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_arrays(world: Encoded) -> None:
    """Ranges that begin and end in the midst of displays, single rows, and some by index."""
    part = world.part("history")
    fields = [field for field in world.fields.values() if field.kind != "multi"]
    assert {field.per for field in fields} == {"display", "impression"}
    display = np.repeat(np.arange(part.displays), np.diff(part.offsets))
    columns = [part.field(f.name)[display] if f.per == "display" else part.field(f.name) for f in fields]
    expected, rows = np.stack(columns, axis=1), Rows(part, fields)
    assert rows[0:1].dtype == np.float32
    for start, stop in [(0, part.rows), (1, 2), (7, 300), (300, 301), (part.rows - 5, part.rows), (9, 9)]:
        np.testing.assert_array_equal(rows[start:stop], expected[start:stop])
    np.testing.assert_array_equal(rows[5], expected[5])
    np.testing.assert_array_equal(rows[[3, 500, 4]], expected[[3, 500, 4]])


def test_blocks_make_the_data_set_of_a_whole_matrix(world: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "batch_size", 37)
    part = world.part("history")
    fields = [field for field in world.fields.values() if field.kind != "multi"]
    parameters = {"objective": "lambdarank", "seed": 1, "verbosity": -1, "num_threads": 1, "deterministic": True}
    whole = lgb.Dataset(
        Rows(part, fields)[:],
        label=part.array("clicked"),
        group=np.diff(part.offsets),
        feature_name=[field.name for field in fields],
        categorical_feature=[field.name for field in fields if field.kind == "categorical"],
        params={**parameters, "feature_pre_filter": False},
    )
    expected, found = (lgb.train(parameters, d, 5) for d in (whole, binned(part, fields, parameters)))
    assert found.model_to_string() == expected.model_to_string()


@pytest.mark.parametrize(("first", "last", "most"), [(0, 5000, 2100), (300, 5000, 1), (0, 5000, 4999), (7, 1100, 1024)])
def test_displays_are_drawn_from_all_over(first: int, last: int, most: int) -> None:
    pieces = drawn(slice(first, last), most, seed=1)
    displays = [display for piece in pieces for display in range(piece.start, piece.stop)]
    assert displays == sorted(set(displays))
    assert first <= displays[0] <= displays[-1] < last
    assert most - 1024 < len(displays) <= most
    assert pieces == drawn(slice(first, last), most, seed=1)
    assert drawn(slice(first, last), last - first, seed=1) == [slice(first, last)]


def test_drawn_displays_are_trained_on(world: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    """What trees grow from is what the ranges hold, not less and not more."""
    monkeypatch.setattr(encoded, "_DRAWN_TOGETHER", 16)
    part = world.part("history")
    fields = [field for field in world.fields.values() if field.kind != "multi"]
    parameters = {"seed": 1, "verbosity": -1}
    pieces = drawn(slice(0, part.displays), 100, seed=1)
    chosen = np.concatenate([np.arange(piece.start, piece.stop) for piece in pieces])
    assert 84 < len(chosen) <= 100 < part.displays
    rows = np.concatenate([np.arange(part.offsets[d], part.offsets[d + 1]) for d in chosen])
    data = binned(part, fields, parameters, displays=pieces)
    np.testing.assert_array_equal(data.get_label(), part.array("clicked")[rows])
    np.testing.assert_array_equal(data.get_group(), np.diff(part.offsets)[chosen])
    assert fit(world, replace(CONFIG, displays=100))[1].curve != fit(world, CONFIG)[1].curve


def test_bins_come_of_a_sample(world: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the rows' own distribution, so that fewer of them give nearly the same trees."""
    monkeypatch.setattr(dataset, "_SAMPLED_ROWS", 400)
    assert world.part("history").rows > 800
    _, sampled = fit(world, CONFIG)
    monkeypatch.undo()
    _, whole = fit(world, CONFIG)
    best = [max(point["map12"] for point in fitted.curve) for fitted in (sampled, whole)]
    assert best[0] == pytest.approx(best[1], abs=0.05)
    assert sampled.curve != whole.curve


def test_the_checkpoint_goes_with_its_stage(world: Encoded, tmp_path: Path) -> None:
    """Nothing but the checkpoint's own file is written, and no part of it is left behind."""
    fit(world, CONFIG, checkpoint=tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["trees.npz"]
    shutil.rmtree(tmp_path / "checkpoint")
