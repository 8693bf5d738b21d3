"""Optuna over a model's search space, on samples of displays; a study survives a kill without losing a trial."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from pipeline.core.config import check
from pipeline.core.files import write_text
from pipeline.core.progress import bar, log
from pipeline.core.runtime import RuntimeConfig, temporary_folder
from pipeline.metrics import DivergedError, Judged
from pipeline.models.base import Kind
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.predictions import labels_of
from pipeline.tuning import space
from pipeline.tuning.journal import JournalLock, open_study
from pipeline.tuning.sample import FACTOR, LEAST, rungs, sample
from pipeline.tuning.winner import JUDGED, is_better, likeliest, packed, winner
from pipeline.tuning.workers import enrolled, helpers, is_alive, is_orphaned

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
#: Of Optuna's steps; more than the evaluations of any fit.
_STEPS_OF_A_RUNG = 1_000_000
#: Sets that are tried before the sampler goes by what it has seen.
_STARTUP = 8
#: After so many attempts that ended in an error or with the process (of too little memory) a set is given up. A kill by
#: the user looks the same, so one is not enough to tell that it is the set's fault.
_ATTEMPTS = 3
_POLL_SECONDS = 0.5
#: How often a new set is sought near another one, where a few choices leave few of them.
_TRIES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningConfig:
    """The section `tuning` of params.yaml.

    trials: how many parameter sets are tried beside the defaults; 0 keeps the defaults.
    minutes: no trial starts after so many; None for no limit.
    displays: the largest sample of displays, history and target together, on which they are tried. The winner must
    be better than the defaults on four times as many, too, or on all there are.
    workers: processes that try sets at the same time, each on its share of the cores. With one, the same seed tries
    the same sets; with more it depends on who is ready first.
    """

    trials: int = 4
    minutes: float | None = None
    displays: int = 80_000
    seed: int = 1
    workers: int = 1

    def __post_init__(self) -> None:
        check(self.trials >= 0, f"trials: must be 0 or more, found {self.trials}")
        check(self.minutes is None or self.minutes >= 0, f"minutes: must be 0 or more, found {self.minutes}")
        check(self.displays >= 100, f"displays: must be 100 or more, found {self.displays}")
        check(self.seed >= 0, f"seed: must be 0 or more, found {self.seed}")
        check(1 <= self.workers <= 64, f"workers: must be from 1 to 64, found {self.workers}")


def tune(
    kind: Kind, config: Any, encoded: Encoded, runtime: RuntimeConfig, tuning: TuningConfig, journal: Path, out: Path
) -> optuna.Study | None:
    """Write the winner's parameters to the YAML file `out`; it is empty if the defaults won. None: nothing to search.

    The study lies in `journal`, under a name that changes with the data, the defaults, the search space, the sample and
    the kind's version (not with every edit of the code, which would lose what nights have found): a second call goes on
    where the first one ended, a call on other data starts afresh. Calls at the same time, on all machines that see the
    journal, share the study; each ends when nothing is left to try and nobody tries anything.
    """
    if not tuning.trials or not kind.search_space:
        _write({}, out)
        return None
    own = replace(runtime, threads=max(1, runtime.cores // tuning.workers))
    name = _name(kind, config, encoded, tuning)
    with temporary_folder(runtime) as folder:
        samples = rungs(encoded, tuning.displays, tuning.seed, folder)
        search = Search(kind, config, samples, own, tuning, journal, name)
        with helpers(min(tuning.workers, search.left()) - 1, work, search):
            search.run()
        best = winner(search.study.trials, search.future)
        if best is not None and samples[-1] is not encoded:
            larger = sample(encoded, FACTOR * tuning.displays, tuning.seed, folder / "larger")
            best = best if search.is_confirmed(best, larger) else None
        found = space.decoded(kind.search_space, best.params if best else {})
        log.info("tuning: %s", found or "the defaults")
        with search.lock:  # others may write it, too
            _write(found, out)
    return search.study


def _write(found: dict[str, Any], out: Path) -> None:
    write_text(out, yaml.safe_dump({k: space.plain(v) for k, v in found.items()}, sort_keys=True))


def _name(kind: Kind, config: Any, encoded: Encoded, tuning: TuningConfig) -> str:
    what = [kind.name, asdict(config), repr(kind.search_space), tuning.displays, tuning.seed, encoded.digest]
    what += [FACTOR, LEAST, JUDGED]  # the last: what each trial keeps
    text = json.dumps([*what, *([kind.version] if kind.version else [])], sort_keys=True)
    return f"{kind.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass
class Search:
    """Asks a study for parameter sets and tells it what they are worth, until its budget is spent.

    A set is fitted on the samples, the smallest first; on the last one it is judged (winner.py). Only the best quarter
    of those that a smaller sample has seen goes on to the next; and a fit ends early where its MAP@12 has ceased to
    rise behind the median of other trials.

    What another process needs to take part is pickled; it opens the study anew.
    """

    kind: Kind
    config: Any
    samples: list[Encoded]
    runtime: RuntimeConfig
    tuning: TuningConfig
    journal: Path
    name: str

    def __post_init__(self) -> None:
        self.lock = JournalLock(self.journal)
        self.study = open_study(self.journal, self.name, self.lock)
        self.defaults = space.encoded(self.kind.search_space, self.config)
        self.distributions = space.distributions(self.kind.search_space, self.config)
        self.starts = [space.encoded(self.kind.search_space, replace(self.config, **c)) for c in self.kind.starts]
        self.future = self.samples[-1].part("target").array("future")

    def __reduce__(self) -> tuple[type[Search], tuple[Any, ...]]:
        return Search, tuple(getattr(self, field.name) for field in fields(self))

    def left(self) -> int:
        """How many trials there are still to finish."""
        return self.tuning.trials + 1 - len(self._finished(self.study.get_trials(deepcopy=False)))

    def run(self) -> None:
        """Try sets until none is left, or the time is over, and no other worker tries one."""
        started, trials, minutes = time.monotonic(), self.tuning.trials + 1, self.tuning.minutes
        with enrolled(self.journal, self.lock) as worker, bar(trials, "tuning", "trial") as shown:
            while not is_orphaned():
                late = minutes is not None and time.monotonic() - started > 60 * minutes
                with self.lock:
                    finished, running = self._taken()
                    taken = len(finished) + len(running)
                    trial = None if taken >= trials or (taken and late) else self._ask(worker, finished + running)
                shown.update(len(finished) - shown.n)
                if trial is not None:
                    self._try(trial)
                elif running:
                    time.sleep(_POLL_SECONDS)
                else:
                    break
        if len(finished) < trials:
            log.warning("tuning: stopped after %d of %d trials, at its limit of time", len(finished), trials)

    def _taken(self) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """The trials that are finished, and those that some worker runs; what a dead one ran has failed."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        dead = [t for t in running if not is_alive(self.journal, t.user_attrs.get("worker", ""))]
        for trial in dead:
            self.study.tell(trial.number, state=TrialState.FAIL)
        finished = self._finished(self.study.get_trials(deepcopy=False))
        for params in [
            t.params for t in finished if t.state == TrialState.FAIL and t.number in {d.number for d in dead}
        ]:
            log.warning("tuning: %s failed %d times, so it is given up", params, _ATTEMPTS)
        return finished, [t for t in running if t not in dead]

    def _finished(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """The trials that came to an end, and the last attempt at each set that has failed too often.

        The defaults are never given up: a model that fails with them has an error to be seen.
        """
        finished = [t for t in trials if t.state in _FINISHED]
        done = [self.defaults, *(t.params for t in finished)]
        failed = [t for t in self._failed(trials) if t.params not in done]
        attempts = [sum(t.params == other.params for other in failed[: i + 1]) for i, t in enumerate(failed)]
        return finished + [t for t, attempt in zip(failed, attempts, strict=True) if attempt == _ATTEMPTS]

    def _failed(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Attempts at a whole set that an error or a kill has ended."""
        return [t for t in trials if t.state == TrialState.FAIL and len(t.params) == len(self.distributions)]

    def _ask(self, worker: str, taken: list[FrozenTrial]) -> optuna.Trial:
        """The next set: the defaults, then what a dead worker has left behind, and what has proved good elsewhere; then
        two near the likeliest one for each that the sampler proposes, which looks everywhere.

        Both are seeded by the number of trials, so a killed and resumed study tries the same sets as an undisturbed
        one.
        """
        trials, known = self.study.get_trials(deepcopy=False), [t.params for t in taken]
        lost = [t.params for t in self._failed(trials)]
        planned = [params for params in [self.defaults, *lost, *self.starts] if params not in known]
        seed = self.tuning.seed * 100_003 + len(taken)
        if not planned and len(taken) % 3:
            best, random = likeliest(taken, self.future), np.random.default_rng(seed)
            base = best.params if best else self.defaults
            tries = (space.near(base, self.distributions, random) for _ in range(_TRIES))
            planned = [params for params in tries if params not in known][:1]
        if planned and not any(t.state == TrialState.WAITING for t in trials):
            self.study.enqueue_trial(planned[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed % (1 << 32), n_startup_trials=_STARTUP)
        found = self.study.ask(self.distributions)
        found.set_user_attr("worker", worker)
        if found.params == self.defaults:
            found.set_user_attr("defaults", True)
        return found

    def _try(self, trial: optuna.Trial) -> None:
        try:
            self.study.tell(trial, self._score(trial))
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except DivergedError:
            self.study.tell(trial, 0.0)  # a result too: as bad as it gets

    def _score(self, trial: optuna.Trial) -> float:
        """MAP@12 of a fit on the largest sample; raises TrialPruned if others are better."""
        if trial.params == self.defaults:  # all others are measured against them, so they are never given up
            return self._fit(trial, self.config, len(self.samples) - 1)
        tried = self._set(trial.params)
        for rung in range(len(self.samples) - 1):
            self._fit(trial, tried, rung)
            if not _promising(trial, rung):
                raise optuna.TrialPruned
        return self._fit(trial, tried, len(self.samples) - 1)

    def _set(self, params: dict[str, Any]) -> Any:
        return replace(self.config, **space.decoded(self.kind.search_space, params))

    def is_confirmed(self, best: FrozenTrial, larger: Encoded) -> bool:
        """Whether a set is better than the defaults on a larger sample, too: what a few displays prefer, such as a
        faster rate or fewer weights, is often worse with many. The study keeps the answer, and who has sought it: a set
        that has failed too often is not confirmed."""
        name = f"is trial {best.number} confirmed"
        if name in self.study.user_attrs:
            return bool(self.study.user_attrs[name])
        with enrolled(self.journal, self.lock) as worker:
            with self.lock:
                asked = self.study.user_attrs.get(f"{name}: asked by", [])
                failed = sum(not is_alive(self.journal, other) for other in asked)
                self.study.set_user_attr(f"{name}: asked by", [*asked, worker])
            confirmed = failed < _ATTEMPTS
            if confirmed:
                own, base = (self._judged(config, larger) for config in (self._set(best.params), self.config))
                future = larger.part("target").array("future")
                confirmed = own is not None and (base is None or is_better(own, base, future, 1))
            else:
                log.warning("tuning: %s failed %d times on more displays, so it is given up", best.params, failed)
            with self.lock:
                self.study.set_user_attr(name, confirmed)
        return confirmed

    def _judged(self, config: Any, encoded: Encoded) -> Judged | None:
        """What a fit is worth on a sample's target; None if it diverges."""
        model, target = self.kind.build(config), encoded.part("target")
        try:
            model.fit(encoded, FitOptions(runtime=self.runtime))
            return Judged.scaled(model.predict(target), labels_of(target))
        except DivergedError:
            return None

    def _fit(self, trial: optuna.Trial, tried: Any, rung: int) -> float:
        best = -math.inf

        def report(step: int, score: float) -> None:
            nonlocal best
            rises, best = score > best, max(score, best)
            trial.report(score, rung * _STEPS_OF_A_RUNG + step)
            if tried != self.config and not rises and trial.should_prune():  # what learns slowly may end higher
                raise optuna.TrialPruned

        model, sample = self.kind.build(tried), self.samples[rung]
        fitted = model.fit(sample, FitOptions(runtime=self.runtime, report=report))
        if sample is self.samples[-1]:
            target = sample.part("target")
            trial.set_user_attr(JUDGED, packed(Judged.scaled(model.predict(target), labels_of(target))))
        return fitted.map12


def work(search: Search) -> None:
    """Take part in a search, in a process of its own."""
    search.run()


def _promising(trial: optuna.Trial, rung: int) -> bool:
    """Whether a set is among the best quarter of those that its rung has seen until now: Li et al. 2020, "A system for
    massively parallel hyperparameter tuning" (ASHA, algorithm 2)."""
    seen = [value for t in trial.study.get_trials(deepcopy=False) if (value := _value(t, rung)) is not None]
    own = _value(trial.study.trials[trial.number], rung)
    return own is not None and sum(value > own for value in seen) < max(1, len(seen) // FACTOR)


def _value(trial: FrozenTrial, rung: int) -> float | None:
    """What a trial came to on a rung; None if it was not there."""
    values = [v for step, v in trial.intermediate_values.items() if step // _STEPS_OF_A_RUNG == rung]
    return max(values, default=None)
