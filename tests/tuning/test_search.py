"""Tuning: a study outlives its process, and its winner is the best trial, if it is better than the defaults."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from numpy.typing import NDArray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipeline.core.errors import ParameterError
from pipeline.core.runtime import RuntimeConfig
from pipeline.metrics import DivergedError
from pipeline.models.base import Choice, Kind, SearchSpace, Uniform, load_kind, model_config
from pipeline.schemas.encoded import Encoded, EncodedPart
from pipeline.schemas.fitting import FitOptions, Fitted
from pipeline.stages.tune import main
from pipeline.tuning import sample, search
from pipeline.tuning.search import TuningConfig, tune
from tests.synthetic import MIXED, mixed, write_encoded, write_mixed

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeConfig:
    """Scores 1 - (x - 0.3)^2, less if `shape` is not (2, 1)."""

    x: float = 0.9
    shape: tuple[int, ...] = (1,)
    depth: int = 3


SPACE: SearchSpace = {
    "x": Uniform(low=0.0, high=1.0),
    "shape": Choice(values=((1,), (2, 1))),
    "depth": Uniform(low=1, high=100, log=True, whole=True),
}


class FakeModel:
    """Learns nothing: three evaluations, its score is the second. `fits` lists the configs that were tried.

    It puts the click first in two thirds of the displays, and last in all others; the better its score, the further
    ahead in the former and the less far behind in the latter.
    """

    fits: list[FakeConfig] = []  # noqa: RUF012 - shared on purpose

    def __init__(self, config: FakeConfig) -> None:
        self.config = config

    def score(self) -> float:
        return 1 - (self.config.x - 0.3) ** 2 - 0.1 * (self.config.shape != (2, 1))

    def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
        self.fits.append(self.config)
        curve = []
        for step in range(1, 4):
            score = self.score() - 0.01 * abs(step - 2)
            options.report(step, score)
            curve.append({"step": float(step), "map12": score})
        return Fitted(length=2.0, curve=curve)

    def predict(self, part: EncodedPart) -> NDArray[np.float32]:
        right = np.arange(part.displays) % 3 > 0
        of_click = np.where(np.repeat(right, np.diff(part.offsets)), 1, -1) + self.score()
        return np.asarray(of_click * part.array("clicked"), dtype=np.float32)


def fake_kind(model: type[FakeModel] = FakeModel, space: SearchSpace = SPACE) -> Kind:
    return Kind("fake", FakeConfig, space, model)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_fits() -> None:
    FakeModel.fits.clear()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return write_mixed(tmp_path_factory.mktemp("tune") / "encoded", displays=60)


def run(
    world: Encoded,
    runtime: RuntimeConfig,
    folder: Path,
    kind: Kind | None = None,
    config: FakeConfig | None = None,
    out: str = "out",
    **tuning: Any,
) -> Any:
    """Tune and return the winner's file."""
    kind, values = kind or fake_kind(), {"trials": 12, "displays": 1000} | tuning
    tune(kind, config or FakeConfig(), world, runtime, TuningConfig(**values), folder / "study", folder / f"{out}.yaml")
    return yaml.safe_load((folder / f"{out}.yaml").read_text(encoding="utf-8"))


def studies(journal: Path) -> list[list[FrozenTrial]]:
    """The trials of each study in a journal."""
    storage = JournalStorage(JournalFileBackend(str(journal)))
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    return [optuna.load_study(study_name=name, storage=storage).trials for name in names]


def finished(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    """What was tried and found."""
    return [
        (t.params, t.value, t.state, t.intermediate_values, {k: v for k, v in t.user_attrs.items() if k != "worker"})
        for t in trials
        if t.state != TrialState.FAIL
    ]


# --- the winner ---------------------------------------------------------------------------------------------------


def test_the_winner_is_the_best_trial(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    winner = run(world, runtime, tmp_path)
    (trials,) = studies(tmp_path / "study")
    assert len(trials) == 13
    assert trials[0].user_attrs["defaults"]
    assert not any("defaults" in t.user_attrs for t in trials[1:])
    assert FakeModel.fits[0] == FakeConfig()
    best = max((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.value)
    assert winner["x"] == pytest.approx(best.params["x"], rel=1e-4)
    assert winner["shape"] == json.loads(best.params["shape"])
    assert winner["depth"] == best.params["depth"]
    tried = [FakeModel(config).score() for config in FakeModel.fits]
    assert max(tried) == best.value > tried[0]


def test_what_was_good_elsewhere_is_tried_first(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    """Each as a change of the defaults, once; what is the same as the defaults is not tried again."""
    kind = replace(fake_kind(), starts=({"x": 0.5}, {"x": 0.9, "shape": (1,)}, {"shape": (2, 1), "depth": 30}))
    run(world, runtime, tmp_path, kind, trials=4)
    assert FakeModel.fits[:3] == [FakeConfig(), FakeConfig(x=0.5), FakeConfig(shape=(2, 1), depth=30)]
    assert len(FakeModel.fits) == 5
    assert len({repr(config) for config in FakeModel.fits}) == 5
    run(world, runtime, tmp_path, kind, trials=5)
    assert len(FakeModel.fits) == 6


def test_the_winner_is_read_by_training(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    """Tuples of a choice travel as lists: they come back as they were."""
    (tmp_path / "params.yaml").write_text("models: {deep: {kind: deepfm}}", encoding="utf-8")
    kind, config = model_config(tmp_path / "params.yaml", "deep")

    class Wide(FakeModel):
        def score(self) -> float:
            return 0.1 + len(self.config.hidden) * 0.4 + self.config.hidden[0] / 10_000  # type: ignore[attr-defined]

    deep = replace(kind, build=Wide)  # type: ignore[arg-type]
    start = replace(config, hidden=(8,))
    tune(deep, start, world, runtime, TuningConfig(trials=9), tmp_path / "study", tmp_path / "deep.yaml")
    _, tuned = model_config(tmp_path / "params.yaml", "deep", tmp_path / "deep.yaml")
    assert tuned.hidden in kind.search_space["hidden"].values  # type: ignore[union-attr]
    assert len(tuned.hidden) == 2
    written = yaml.safe_load((tmp_path / "deep.yaml").read_text(encoding="utf-8"))
    assert set(written) == set(kind.search_space)
    for name in written:
        if isinstance(written[name], float):
            tried = [getattr(c, name) for c in FakeModel.fits]
            assert min(abs(written[name] - value) / value for value in tried) < 1e-4


def test_nothing_is_written_if_the_defaults_win(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    assert run(world, runtime, tmp_path, config=FakeConfig(x=0.3, shape=(2, 1))) == {}
    assert len(FakeModel.fits) == 13


def test_nothing_is_written_if_the_winner_may_be_luck(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    """Sets are better by less than displays differ."""

    class Noisy(FakeModel):
        def predict(self, part: EncodedPart) -> NDArray[np.float32]:
            noise = np.random.default_rng(round(1e6 * self.config.x)).normal(0, 0.1, part.displays)
            return super().predict(part) + np.repeat(noise, np.diff(part.offsets)) * part.array("clicked")

    close = FakeConfig(x=0.35, shape=(2, 1))
    assert run(world, runtime, tmp_path, fake_kind(Noisy), close, trials=30) == {}
    (trials,) = studies(tmp_path / "study")
    assert max(t.value for t in trials if t.state == TrialState.COMPLETE) > trials[0].value  # type: ignore[operator]


@pytest.mark.parametrize(("space", "trials"), [({}, 5), (SPACE, 0)], ids=["no search space", "no trials"])
def test_nothing_to_search(
    world: Encoded, runtime: RuntimeConfig, tmp_path: Path, space: SearchSpace, trials: int
) -> None:
    assert run(world, runtime, tmp_path, fake_kind(space=space), trials=trials) == {}
    assert not FakeModel.fits
    assert [path.name for path in tmp_path.iterdir()] == ["out.yaml"]


def test_bad_trials_are_pruned(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    run(world, runtime, tmp_path)
    (trials,) = studies(tmp_path / "study")
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    pruned = [t.intermediate_values[1] for t in trials if t.state == TrialState.PRUNED]
    assert max(pruned) < max(t.intermediate_values[1] for t in trials)


def test_what_still_rises_is_not_pruned(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    class Rising(FakeModel):
        def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
            curve = []
            for step in range(1, 4):
                curve.append({"step": float(step), "map12": self.score() - 0.01 * (3 - step)})
                options.report(step, curve[-1]["map12"])
            return Fitted(length=3.0, curve=curve)

    run(world, runtime, tmp_path, fake_kind(Rising))
    (trials,) = studies(tmp_path / "study")
    assert {t.state for t in trials} == {TrialState.COMPLETE}


def test_few_sets_are_tried_on_the_whole_sample(
    world: Encoded, runtime: RuntimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defaults on it alone; of all others, those that were among the best quarter on the small one."""
    monkeypatch.setattr(sample, "LEAST", 20)
    fits: list[tuple[FakeConfig, int]] = []

    class Small(FakeModel):
        def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
            fits.append((self.config, encoded.part("history").displays))
            return super().fit(encoded, options)

    winner = run(world, runtime, tmp_path, fake_kind(Small), trials=20)
    (trials,) = studies(tmp_path / "study")
    assert len(trials) == 21
    assert fits[0] == (FakeConfig(), 60)
    small = [config for config, displays in fits if displays == 15]
    whole = [config for config, displays in fits[1:] if displays == 60]
    assert [config for config, displays in fits if displays not in (15, 60)] == []
    assert len(small) == 20
    expected = []
    for number, config in enumerate(small):
        before = sorted((Small(c).score() for c in small[: number + 1]), reverse=True)
        # a fit on the small sample may have been cut off before its last evaluation
        if Small(config).score() >= before[max(1, len(before) // 4) - 1]:
            expected.append(config)
    assert set(whole) <= set(expected)
    assert 2 <= len(whole) < 15
    assert max(small, key=lambda config: Small(config).score()) in whole
    assert winner["x"] == pytest.approx(max(whole, key=lambda config: Small(config).score()).x, rel=1e-4)


class Soon(FakeModel):
    """Is better than the defaults on few displays; of more it makes `of_many`."""

    of_many = 0.0
    fitted: list[tuple[FakeConfig, int]] = []  # noqa: RUF012 - shared on purpose

    def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
        self.many = encoded.part("history").displays > 100
        self.fitted.append((self.config, encoded.part("history").displays))
        return super().fit(encoded, options)

    def score(self) -> float:
        defaults = self.config == FakeConfig()
        return self.of_many if getattr(self, "many", False) and not defaults else super().score()


@pytest.mark.parametrize(("of_many", "wins"), [(0.9, True), (0.2, False)], ids=["still better", "no longer"])
def test_the_winner_is_confirmed_on_more_displays(
    runtime: RuntimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_many: float, wins: bool
) -> None:
    """On four times as many, with the defaults beside it; a run that finds the study at its end asks no second time."""
    monkeypatch.setattr(Soon, "of_many", of_many)
    monkeypatch.setattr(Soon, "fitted", [])
    large = write_mixed(tmp_path / "encoded", displays=450)
    total = large.part("history").displays + large.part("target").displays
    assert total > 400
    found = run(large, runtime, tmp_path, fake_kind(Soon), displays=100)
    assert bool(found) == wins
    sizes = [round(displays * total / 450) for _, displays in Soon.fitted]
    assert sizes[-2:] == [400, 400]
    assert set(sizes[:-2]) == {100}
    (trials,) = studies(tmp_path / "study")
    assert [config.x for config, _ in Soon.fitted[-2:]] == [max(trials, key=lambda t: t.value or 0).params["x"], 0.9]
    assert run(large, runtime, tmp_path, fake_kind(Soon), displays=100) == found
    assert len(Soon.fitted) == len(sizes)


def test_a_winner_that_cannot_be_confirmed_is_given_up(
    runtime: RuntimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes the process with it, such as too little memory, does so a third time at most."""

    class Fatal(Soon):
        def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
            fitted = super().fit(encoded, options)
            if self.many:
                raise MemoryError
            return fitted

    monkeypatch.setattr(Soon, "fitted", [])
    large = write_mixed(tmp_path / "encoded", displays=450)
    for attempt in (1, 2, 3):
        with pytest.raises(MemoryError):
            run(large, runtime, tmp_path, fake_kind(Fatal), displays=100)
        assert sum(displays > 100 for _, displays in Soon.fitted) == attempt
    assert run(large, runtime, tmp_path, fake_kind(Fatal), displays=100) == {}
    assert sum(displays > 100 for _, displays in Soon.fitted) == 3


def test_a_diverging_trial_does_not_stop_the_study(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    class Diverging(FakeModel):
        def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
            fitted = super().fit(encoded, options)
            if len(self.fits) % 2:
                raise DivergedError
            return fitted

    winner = run(world, runtime, tmp_path, fake_kind(Diverging))
    (trials,) = studies(tmp_path / "study")
    assert len(trials) == 13
    assert {t.value for t in trials[::2] if t.state == TrialState.COMPLETE} == {0.0}
    best = max((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.value)
    assert best.number % 2 == 1
    assert winner["x"] == pytest.approx(best.params["x"], rel=1e-4)


def test_all_trials_diverge(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    class Diverging(FakeModel):
        def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
            raise DivergedError

    assert run(world, runtime, tmp_path, fake_kind(Diverging), trials=3) == {}


def test_another_error_stops_it_and_the_trial_is_tried_again(
    world: Encoded, runtime: RuntimeConfig, tmp_path: Path
) -> None:
    class Failing(FakeModel):
        def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
            if len(self.fits) == 6:
                raise ParameterError("out of memory")
            return super().fit(encoded, options)

    with pytest.raises(ParameterError, match="out of memory"):
        run(world, runtime, tmp_path, fake_kind(Failing))
    run(world, runtime, tmp_path)
    (tmp_path / "other").mkdir()
    run(world, runtime, tmp_path / "other")
    assert finished(*studies(tmp_path / "study")) == finished(*studies(tmp_path / "other" / "study"))


def test_a_set_that_always_fails_is_given_up(
    world: Encoded, runtime: RuntimeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the run after its third attempt, which tries all others."""
    run(world, runtime, tmp_path, trials=4)
    poison = FakeModel.fits[3]

    class Failing(FakeModel):
        def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
            if self.config == poison:
                raise MemoryError
            return super().fit(encoded, options)

    (tmp_path / "failing").mkdir()
    for _ in range(3):
        with pytest.raises(MemoryError):
            run(world, runtime, tmp_path / "failing", fake_kind(Failing))
        assert "given up" not in caplog.text
    run(world, runtime, tmp_path / "failing", fake_kind(Failing))
    assert caplog.text.count("failed 3 times, so it is given up") == 1
    (trials,) = studies(tmp_path / "failing" / "study")
    assert [t.state for t in trials].count(TrialState.FAIL) == 3
    assert len(trials) == 12 + 3
    run(world, runtime, tmp_path / "failing", fake_kind(Failing))
    assert len(*studies(tmp_path / "failing" / "study")) == 12 + 3


def test_the_defaults_are_never_given_up(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    class Failing(FakeModel):
        def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
            raise MemoryError

    for _ in range(4):
        with pytest.raises(MemoryError):
            run(world, runtime, tmp_path, fake_kind(Failing))
    run(world, runtime, tmp_path)
    assert FakeModel.fits[0] == FakeConfig()


# --- a study is kept ----------------------------------------------------------------------------------------------


def test_the_same_seed_finds_the_same(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2), ("large", 1 << 70)):
        (tmp_path / name).mkdir()
        run(world, runtime, tmp_path / name, seed=seed)
        found.append(finished(*studies(tmp_path / name / "study")))
    assert found[0] == found[1]
    assert found[0][1:] not in (found[2][1:], found[3][1:])
    assert len({repr(params) for params, *_ in found[0]}) == 13


def test_more_trials_go_on(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    run(world, runtime, tmp_path, trials=4)
    assert len(FakeModel.fits) == 5
    run(world, runtime, tmp_path, trials=4)
    assert len(FakeModel.fits) == 5
    run(world, runtime, tmp_path, trials=12)
    assert len(FakeModel.fits) == 13
    (tmp_path / "other").mkdir()
    run(world, runtime, tmp_path / "other", trials=12)
    assert finished(*studies(tmp_path / "study")) == finished(*studies(tmp_path / "other" / "study"))
    assert (tmp_path / "out.yaml").read_bytes() == (tmp_path / "other" / "out.yaml").read_bytes()


def test_another_question_is_another_study(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    """Other data, defaults, sample, seed, search space or kind: nothing of the old study is used, or lost."""
    history = mixed(np.random.default_rng(3), 60)
    other = write_encoded(tmp_path / "encoded", MIXED, history, history, digest="other")
    narrow = fake_kind(space=SPACE | {"x": Uniform(low=0.0, high=0.5)})
    run(world, runtime, tmp_path, trials=2)
    run(other, runtime, tmp_path, trials=2)
    run(world, runtime, tmp_path, trials=2, config=FakeConfig(depth=4))
    run(world, runtime, tmp_path, trials=2, displays=1001)
    run(world, runtime, tmp_path, trials=2, seed=2)
    run(world, runtime, tmp_path, narrow, trials=2)
    run(world, runtime, tmp_path, replace(fake_kind(), version=1), trials=2)
    assert [len(trials) for trials in studies(tmp_path / "study")] == [3] * 7
    run(world, runtime, tmp_path, trials=2)
    assert [len(trials) for trials in studies(tmp_path / "study")] == [3] * 7


def test_no_trial_starts_after_the_limit_of_time(
    world: Encoded, runtime: RuntimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(search.time, "monotonic", lambda: now)

    class Slow(FakeModel):
        def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
            nonlocal now
            now += 50.0
            return super().fit(encoded, options)

    run(world, runtime, tmp_path, fake_kind(Slow), minutes=2.0)
    assert len(FakeModel.fits) == 3
    run(world, runtime, tmp_path, fake_kind(Slow), minutes=0.0)  # the time of each call is its own
    assert len(FakeModel.fits) == 4
    run(world, runtime, tmp_path, fake_kind(Slow), out="again", minutes=None)
    assert len(FakeModel.fits) == 13
    (tmp_path / "new").mkdir()
    run(world, runtime, tmp_path / "new", fake_kind(Slow), minutes=0.0)
    assert FakeModel.fits[13] == FakeConfig()  # at least the defaults are tried


@pytest.mark.parametrize(
    "values", [{"trials": -1}, {"displays": 10}, {"minutes": -1.0}, {"seed": -1}, {"workers": 0}, {"workers": 65}]
)
def test_mistakes_in_parameters(values: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(values))}: must be"):
        TuningConfig(**values)


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from pipeline.core.runtime import RuntimeConfig
from pipeline.schemas.encoded import Encoded, EncodedPart
from tests.tuning import test_search

mode, kill = sys.argv[2], int(sys.argv[3])

class Killed(test_search.FakeModel):
    def fit(self, encoded, options):
        if mode == "fit" and len(self.fits) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(encoded, options)

writes, fsync = 0, os.fsync
def counted(file):
    global writes
    writes += 1
    if mode == "write" and writes == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)
os.fsync = counted
world, runtime = Encoded(Path(sys.argv[1])), RuntimeConfig(temp_directory="temporary")
test_search.run(world, runtime, Path(sys.argv[4]), test_search.fake_kind(Killed))
"""


def run_and_kill(world: Encoded, folder: Path, mode: str, kill: int) -> None:
    """In a process that kills itself within a fit, or while it writes the journal; its paths are relative."""
    command = [sys.executable, "-c", KILLED_RUN, str(world.folder), mode, str(kill), folder.name]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=folder.parent, env=environment, check=False, timeout=100)
    assert done.returncode == -signal.SIGKILL


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds} seconds")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def test_a_killed_study_ends_as_an_undisturbed_one(
    world: Encoded, runtime: RuntimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the midst of a fit, then in the midst of a write: no trial is lost, and none counts twice."""
    killed, other = tmp_path / "killed", tmp_path / "other"
    killed.mkdir()
    other.mkdir()
    run_and_kill(world, killed, "fit", 4)
    (before,) = studies(killed / "study")
    assert [t.state for t in before][-1] == TrialState.RUNNING
    run_and_kill(world, killed, "write", 40)
    monkeypatch.chdir(tmp_path)
    with no_longer_than(25):
        run(world, runtime, Path("killed"))
    run(world, runtime, other)
    (trials,) = studies(killed / "study")
    assert finished(trials) == finished(*studies(other / "study"))
    assert finished(trials)[:4] == finished(before)[:4]
    assert 1 <= sum(t.state == TrialState.FAIL for t in trials) <= 2
    assert (killed / "out.yaml").read_bytes() == (other / "out.yaml").read_bytes()


def test_a_set_that_kills_its_process_is_given_up(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    run_and_kill(world, killed, "fit", 4)
    for _ in range(2):
        run_and_kill(world, killed, "fit", 0)  # what was lost is tried first
    run(world, runtime, killed)
    (trials,) = studies(killed / "study")
    failed = [t.params for t in trials if t.state == TrialState.FAIL]
    assert failed == failed[:1] * 3
    assert failed[0] not in [t.params for t in trials if t.state != TrialState.FAIL]
    assert len(trials) == 12 + 3


def test_half_a_line_at_the_end_of_the_journal(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    run(world, runtime, tmp_path, trials=4)
    with (tmp_path / "study").open("ab") as journal:
        journal.write(b'{"op_code":4,"worker_i')
    run(world, runtime, tmp_path)
    run(world, runtime, tmp_path)
    assert len(FakeModel.fits) == 13
    (trials,) = studies(tmp_path / "study")
    assert len(trials) == 13


def test_only_the_journal_and_the_winner_are_written(world: Encoded, runtime: RuntimeConfig, tmp_path: Path) -> None:
    def files() -> list[str]:
        folders = (tmp_path, world.folder, Path(runtime.temp_directory))
        return sorted(str(path) for folder in folders for path in folder.rglob("*"))

    before = files()
    run(world, runtime, tmp_path, displays=100, trials=2)
    assert sorted(set(files()) - set(before)) == [str(tmp_path / "out.yaml"), str(tmp_path / "study")]
    assert set(before) <= set(files())


# --- the stage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["lr", "lightgbm"])
def test_the_stage(encoded: dict[str, Encoded], runtime: RuntimeConfig, tmp_path: Path, model: str) -> None:
    params = {
        "models": {
            "lr": {"kind": "lr", "epochs": 1},
            "lightgbm": {"kind": "lightgbm", "rounds": 4, "evaluate_every": 2, "fields": ["ad_rate", "hour"]},
        },
        "tuning": {"trials": 2, "displays": 400},
        "runtime": dataclasses.asdict(replace(runtime, threads=1)),
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    paths = {"params": "params.yaml", "study": "studies/a.journal", "out": "tuned/a.yaml", "picture": "plots/a.png"}
    arguments = [word for name, path in paths.items() for word in (f"--{name}", str(tmp_path / path))]
    main([*arguments, "--encoded", str(encoded["validation"].folder), "--model", model])
    (trials,) = studies(tmp_path / "studies" / "a.journal")
    assert len(trials) == 3
    winner = yaml.safe_load((tmp_path / "tuned" / "a.yaml").read_text(encoding="utf-8"))
    assert set(winner) in (set(), set(load_kind(model).search_space))
    assert model_config(tmp_path / "params.yaml", model, tmp_path / "tuned" / "a.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "plots", "studies", "tuned"]
    assert (tmp_path / "plots" / "a.png").read_bytes().startswith(b"\x89PNG")
