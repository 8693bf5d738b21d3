"""Trees round by round: early stopping, and checkpoints from which a killed run ends like an undisturbed one.

LightGBM cannot be stopped and taken up again as if nothing had happened: rows, fields and the noise of rank_xendcg are
drawn from random numbers whose state it does not tell. So the rounds are cut into segments, killed or not: each starts
from the scores that the trees before it have come to, with seeds of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from lightgbm.basic import _LIB, _safe_call

from pipeline.core.files import atomic_path
from pipeline.core.progress import bar, log
from pipeline.core.stopping import Stopping
from pipeline.metrics import Quality
from pipeline.trees.objectives import Objective, Scores

#: LightGBM's random numbers: which rows and which fields a tree is grown from, and the noise of an objective.
_SEEDS = ("bagging_seed", "feature_fraction_seed", "objective_seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long to train. rounds: at most. segment: rounds between two places at which a killed run can go on.

    evaluate_every: rounds between two measurements; patience: how many in a row may bring no gain.
    """

    rounds: int
    segment: int
    evaluate_every: int
    patience: int
    checkpoint_minutes: float


@dataclass(slots=True)
class Progress(Stopping):
    """Where a fit stands; with the trees and the scores it makes a checkpoint. Lengths are numbers of rounds."""

    round: int = 0


class Boosting:
    """Grows trees on `train`; with a `target`, until `measure(scores)` of it has not become better for long enough.

    objective: what they minimise; if None the one of LightGBM that `parameters` name, else those say "none".
    """

    def __init__(
        self,
        parameters: dict[str, Any],
        schedule: Schedule,
        train: lgb.Dataset,
        target: lgb.Dataset | None = None,
        measure: Callable[[Scores], Quality] = lambda scores: Quality(0.0, 0.0),
        report: Callable[[int, float], None] = lambda step, score: None,
        objective: Objective | None = None,
    ) -> None:
        self.parameters, self.schedule, self.measure, self.report = parameters, schedule, measure, report
        self.objective = objective
        self.sets = [train] if target is None else [train, target]
        self.progress = Progress()
        self._trees = ""  # LightGBM's text of all trees before this segment
        self._scores: list[Scores] = []  # what they come to, for each of `sets`

    def fit(self, checkpoint: Path | None) -> lgb.Booster:
        """All trees up to the best round, or to the last without a target; goes on from `checkpoint` if it exists."""
        if checkpoint is not None:
            self._restore(checkpoint)
        state, saved = self.progress, time.monotonic()
        with bar(self.schedule.rounds, "training", "tree", initial=state.round) as shown:
            while not state.done and state.round < self.schedule.rounds:
                self._segment(shown.update)
                late = time.monotonic() - saved > 60 * self.schedule.checkpoint_minutes
                if checkpoint is not None and late:
                    self._save(checkpoint)
                    saved = time.monotonic()
        best = int(state.best_length) if len(self.sets) > 1 else state.round
        return lgb.Booster(model_str=lgb.Booster(model_str=self._trees).model_to_string(num_iteration=best))

    def _segment(self, grown: Callable[[int], Any]) -> None:
        state, booster = self.progress, self._booster()
        while not state.done and state.round < self.schedule.rounds:
            booster.update(None, self.objective)
            state.round += 1
            grown(1)
            if len(self.sets) > 1 and self._is_measured():
                self._evaluate(booster)
            if state.round % self.schedule.segment == 0:
                break
        self._trees = booster.model_to_string(num_iteration=-1)
        self._scores = [self._scores_of(booster, which) for which in range(len(self.sets))]

    def _booster(self) -> lgb.Booster:
        """A booster that goes on from the trees before this segment."""
        for data, scores in zip(self.sets, self._scores, strict=False):  # there are none before the first
            data.set_field("init_score", scores)
        self._scores = []
        number = self.progress.round // self.schedule.segment
        # LightGBM takes signed numbers of 32 bits, and counts on from them
        seeds = np.random.SeedSequence((self.parameters["seed"], number)).generate_state(len(_SEEDS)) >> 2
        booster = lgb.Booster({**self.parameters, **dict(zip(_SEEDS, seeds.tolist(), strict=True))}, self.sets[0])
        if self._trees:
            before = lgb.Booster(model_str=self._trees)
            _safe_call(_LIB.LGBM_BoosterMerge(booster._handle, before._handle))  # noqa: SLF001
        for target in self.sets[1:]:
            booster.add_valid(target, "target")
        for data in self.sets:
            data.set_field("init_score", None)  # the booster has its own copy
        return booster

    def _is_measured(self) -> bool:
        number = self.progress.round
        return number % self.schedule.evaluate_every == 0 or number in (1, self.schedule.rounds)

    def _evaluate(self, booster: lgb.Booster) -> None:
        state, found = self.progress, self.measure(self._scores_of(booster, 1))
        state.measured(float(state.round), found.worth, self.schedule.patience, **found.shown)
        self.report(len(state.curve), found.map12)

    def _save(self, checkpoint: Path) -> None:
        text = {"progress": json.dumps(asdict(self.progress)), "trees": self._trees}
        contents: dict[str, Any] = {name: np.frombuffer(t.encode(), dtype=np.uint8) for name, t in text.items()}
        contents |= {f"scores_{which}": scores for which, scores in enumerate(self._scores)}
        with atomic_path(checkpoint / "trees.npz") as partial, partial.open("wb") as file:
            np.savez(file, **contents)

    def _restore(self, checkpoint: Path) -> None:
        if not (checkpoint / "trees.npz").exists():
            return
        with np.load(checkpoint / "trees.npz") as found:
            self.progress = Progress(**json.loads(found["progress"].tobytes()))
            self._trees = found["trees"].tobytes().decode()
            self._scores = [found[f"scores_{which}"] for which in range(len(self.sets))]
        log.info("going on from a checkpoint at tree %d", self.progress.round)

    def _scores_of(self, booster: lgb.Booster, which: int) -> Scores:
        """The sums of all trees' values for one of a booster's data sets, which LightGBM gives to who measures them."""
        found: list[Scores] = []

        def keep(scores: Scores, _: lgb.Dataset) -> tuple[str, float, bool]:
            found.append(scores)
            return "kept", 0.0, True

        if which == 0:
            booster.eval_train(keep)
        else:
            booster.eval_valid(keep)
        if self.parameters["objective"] != "binary":
            return found[0]
        with np.errstate(divide="ignore"):  # it gives probabilities
            return np.clip(np.log(found[0]) - np.log1p(-found[0]), -35, 35)
