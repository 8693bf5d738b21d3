"""How factorization models are trained: a killed run ends like an undisturbed one; what stops it, what it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core import epochs
from pipeline.core.runtime import RuntimeConfig
from pipeline.factorization import displays, training
from pipeline.metrics import Quality
from pipeline.models.base import load_kind
from pipeline.models.ffm import FFM
from pipeline.models.fm import FM
from pipeline.models.lr import LogisticRegression
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions, Fitted
from tests.synthetic import MIXED, mixed, write_encoded

KINDS = ("lr", "fm", "ffm")


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    random = np.random.default_rng(3)
    return write_encoded(tmp_path_factory.mktemp("training") / "encoded", MIXED, mixed(random, 120), mixed(random, 50))


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several buffers of several steps each."""
    for module, name, value in ((epochs, "BLOCK", 16), (epochs, "BUFFER_BLOCKS", 3), (displays, "STEP", 10)):
        monkeypatch.setattr(module, name, value)


def fit(name: str, world: Encoded, options: FitOptions, **values: Any) -> tuple[NDArray[np.float32], Fitted]:
    kind = load_kind(name)
    model = kind.build(kind.config(**{"epochs": 3, "evaluations": 2, "patience": 9, **values}))
    fitted = model.fit(world, options)
    return model.predict(world.part("target")), fitted


@contextmanager
def dying_at(steps: int) -> Iterator[None]:
    """What trains in here is killed after so many steps."""
    step, done = training.Trainer._step, []

    def dying(self: Any, *arguments: Any) -> None:
        if len(done) == steps:
            raise KilledError
        done.append(1)
        step(self, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training.Trainer, "_step", dying)
        with pytest.raises(KilledError):
            yield


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("killed_at", [1, 4, 17, 30])
def test_a_killed_run_goes_on(
    name: str, killed_at: int, world: Encoded, runtime: RuntimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after any step, between evaluations too, it ends with the same bytes; another config starts afresh."""
    expected, fitted = fit(name, world, FitOptions(runtime=runtime))
    options, step = FitOptions(runtime=runtime, checkpoint=tmp_path), training.Trainer._step
    with dying_at(killed_at):
        fit(name, world, options, checkpoint_minutes=0.0)
    for checkpoint in tmp_path.iterdir():  # as a kill leaves it that comes while the next one takes its place
        checkpoint.rename(tmp_path / f".{checkpoint.name}.old")
    counted: list[int] = []

    def counting(self: Any, *arguments: Any) -> None:
        counted.append(1)
        step(self, *arguments)

    monkeypatch.setattr(training.Trainer, "_step", counting)
    found, again = fit(name, world, options, checkpoint_minutes=0.0)
    np.testing.assert_array_equal(found, expected)
    assert again == fitted
    assert len(counted) == 3 * 13 - killed_at, "it went on, and did not begin again"
    counted.clear()
    fit(name, world, options, checkpoint_minutes=0.0, seed=5)
    assert len(counted) == 3 * 13


@pytest.mark.parametrize("name", KINDS)
def test_the_best_is_kept(name: str, world: Encoded, runtime: RuntimeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    monkeypatch.setattr(training, "quality", lambda score, labels: Quality(next(scores), 0.0))
    found, fitted = fit(name, world, FitOptions(runtime=runtime), patience=2)
    assert [point["map12"] for point in fitted.curve] == [0.5, 0.6, 0.6, 0.4]
    assert fitted.length == fitted.curve[1]["step"] == 1.0
    refitted, _ = fit(name, world, FitOptions(runtime=runtime, length=fitted.length))
    np.testing.assert_array_equal(found, refitted)


@pytest.mark.parametrize("name", KINDS)
def test_threads_do_not_matter(name: str, world: Encoded, runtime: RuntimeConfig) -> None:
    one, two = (fit(name, world, FitOptions(runtime=replace(runtime, threads=n)))[0] for n in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", KINDS)
def test_hogwild_learns_as_well(
    name: str, world: Encoded, runtime: RuntimeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is dealt to all threads, which have about as much of it each."""
    options, losses, dealt = FitOptions(runtime=replace(runtime, threads=2)), [], []
    learner = {"lr": LogisticRegression, "fm": FM, "ffm": FFM}[name]
    learn = learner.learn

    def counted(self: Any, displays: Any, order: NDArray[np.int64]) -> float:
        shares.append(len(order))
        return learn(self, displays, order)

    monkeypatch.setattr(learner, "learn", counted)
    for hogwild in (False, True):
        shares: list[int] = []
        losses.append(fit(name, world, options, hogwild=hogwild)[1].curve[-1]["loss"])
        dealt.append(shares)
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert sum(dealt[0]) == sum(dealt[1]) == 3 * 120
    assert len(dealt[1]) == 2 * len(dealt[0])
    assert (max(dealt[0]), max(dealt[1])) == (10, 5)


def test_threads_race_where_there_is_much_to_learn_from(
    world: Encoded, runtime: RuntimeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not where several fits share them, and not if the parameters forbid it."""
    history, inputs = world.part("history"), displays.Inputs(list(world.fields.values()))
    config, runtime = load_kind("lr").config(), replace(runtime, threads=2)
    learner = LogisticRegression(inputs, config, history)

    def threads(hogwild: bool | None = None, fits: int = 1) -> int:
        left_out = np.arange(history.displays, dtype=np.int8) % (fits + 1) - 1
        chosen = replace(config, hogwild=hogwild)
        return training.Trainer(learner, inputs, chosen, runtime, history, left_out).threads

    monkeypatch.setattr(training, "HOGWILD_DISPLAYS", history.displays)
    assert [threads(), threads(fits=2), threads(hogwild=False)] == [2, 1, 1]
    monkeypatch.setattr(training, "HOGWILD_DISPLAYS", history.displays + 1)
    assert [threads(), threads(hogwild=True)] == [1, 2]


@pytest.mark.parametrize("name", KINDS)
def test_fits_beside_each_other(name: str, world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    """Each is what it would be alone, scores what it has left out, and goes on where it was killed."""
    kind, history = load_kind(name), world.part("history")
    left_out = np.random.default_rng(1).integers(-1, 3, history.displays).astype(np.int8)
    options = FitOptions(runtime=replace(runtime, threads=2), length=2.0, checkpoint=tmp_path)

    def scores(by: NDArray[np.int8]) -> NDArray[np.float32]:
        model = kind.build(kind.config(checkpoint_minutes=0.0))
        model.fit(world, replace(options, left_out=by))
        with pytest.raises(ValueError, match="scores history alone"):
            model.predict(world.part("target"))
        return model.predict(history)

    with dying_at(17):
        scores(left_out)
    found, by = scores(left_out), np.repeat(left_out, np.diff(history.offsets))
    for k in range(3):
        alone = scores(np.where(left_out == k, 0, -1).astype(np.int8))
        np.testing.assert_array_equal(found[by == k], alone[by == k])
        assert not np.array_equal(found[by == (k + 1) % 3], alone[by == (k + 1) % 3])
        if not k:
            np.testing.assert_array_equal(found[by < 0], alone[by < 0])


@pytest.mark.parametrize("name", KINDS)
def test_hashed_into_a_small_table(name: str, world: Encoded, runtime: RuntimeConfig) -> None:
    """With room for all ids it learns; all in two rows, it cannot tell the ads apart."""
    wide, narrow = (
        fit(name, world, FitOptions(runtime=runtime), hash_bits=bits, epochs=6)[1].curve[-1]["loss"] for bits in (12, 1)
    )
    assert wide < 0.8 * narrow


def test_crosses_learn_what_a_linear_model_cannot(tmp_path: Path, runtime: RuntimeConfig) -> None:
    """The click is the ad whose parity is the page's."""
    random = np.random.default_rng(0)
    parts = []
    for count in (1500, 300):
        part = mixed(random, count)
        lengths = np.full(count, 2)
        page, ad = np.repeat(random.integers(0, 7, count), 2), 2 + random.integers(0, 10, 2 * count) * 2
        ad[1::2] += 1
        columns = {name: column for name, column in part.columns.items() if name in ("ad", "page")}
        columns |= {"ad": ad, "page": page}
        parts.append(type(part)(lengths, columns, (ad % 2 == page % 2).astype(np.uint8)))
    world = write_encoded(tmp_path / "encoded", [f for f in MIXED if f.name in ("ad", "page")], *parts)
    plain, crossed = (
        max(point["map12"] for point in fit("lr", world, FitOptions(runtime=runtime), crosses=crosses)[1].curve)
        for crosses in ((), ("page x ad",))
    )
    assert plain < 0.8
    assert crossed > 0.99
