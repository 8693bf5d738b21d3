"""Ways to combine the members: weighted means of logits, a linear listwise stacker, boosted trees; whole or by part.

A way is fitted on labelled displays and gives a `Combination`, which scores others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pipeline.blending.stack import Sample, Stack, blocks
from pipeline.blending.weights import (
    Weights,
    equal_weights,
    listwise_loss,
    scaled,
    searched_weights,
)

ALONE = " alone"
LINEAR, LINEAR_BY_PART, TREES = "linear", "linear by part", "trees"
#: They read more than the members' logits.
STACKERS = (LINEAR, LINEAR_BY_PART, TREES)
#: A part (present or future) with fewer displays is combined like the whole.
_LEAST_DISPLAYS = 500
#: On what the linear stacker adds to the likeliest mean, however many displays there are: it does not stand for their
#: number, but for how much of what the members' mistakes on validation tell holds of their refits.
_RIDGE = 5e-2
_ROUNDS = 100
_TREES = {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 12,
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 200,
    "lambda_l2": 10.0,
    "feature_fraction": 0.7,
    "max_bin": 63,
    "seed": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}


class Combination(Protocol):
    """What a way has fitted.

    score: (N,) float32, whose softmax over a display is the chance of its ads. explain: what to show of it, a column of
    one number a member under each heading. explain_context: the same of what it reads beside the members, by name.
    """

    def score(self, stack: Stack) -> NDArray[np.float32]: ...

    def explain(self) -> dict[str, list[float]]: ...

    def explain_context(self) -> dict[str, dict[str, float]]: ...


Way = Callable[[Sample], Combination]
C = TypeVar("C")


def scored(combination: Combination, stack: Stack) -> NDArray[np.float32]:
    """combination.score, block by block: some ways make several columns of each that they read."""
    return np.concatenate([combination.score(stack.take(block)) for block in blocks(stack.displays)])


def ways(members: Sequence[str], trials: int) -> dict[str, Way]:
    """All ways, the simplest first; with a single member there is only that. trials: of weights.searched_weights."""
    count = len(members)
    found: dict[str, Way] = {f"{name}{ALONE}": _weighted(_only(i, count)) for i, name in enumerate(members)}
    if count > 1:
        searched = _weighted(
            lambda sample: searched_weights(sample.stack.logits, sample.labels, sample.likelihood, trials)
        )
        found |= {
            "equal": _weighted(lambda sample: equal_weights(sample.stack.logits, sample.labels)),
            "likelihood": fit_likelihood,
            "likelihood by part": by_part(fit_likelihood),
            "searched": searched,
            "searched by part": by_part(searched),
            LINEAR: fit_linear,
            LINEAR_BY_PART: by_part(fit_linear),
            TREES: fit_trees,
        }
    return found


# --- weighted means ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Weighted:
    """sum_m w_m logit_m."""

    weights: Weights

    def score(self, stack: Stack) -> NDArray[np.float32]:
        return stack.logits @ self.weights.astype(np.float32)

    def explain(self) -> dict[str, list[float]]:
        return {"weight": self.weights.tolist()}

    def explain_context(self) -> dict[str, dict[str, float]]:
        return {}


def _only(member: int, count: int) -> Callable[[Sample], Weights]:
    return lambda sample: np.eye(count)[member]


def _weighted(choose: Callable[[Sample], Weights]) -> Way:
    def fit(sample: Sample) -> Combination:
        return Weighted(scaled(choose(sample), sample.stack.logits, sample.labels))

    return fit


def fit_likelihood(sample: Sample) -> Combination:
    """See weights.likelihood_weights."""
    return Weighted(sample.likelihood)


# --- linear --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Linear:
    """<w, columns>, see `_columns`; w in units of the columns themselves. names, flags: see Stack."""

    weights: Weights
    members: int
    names: tuple[str, ...]
    flags: tuple[str, ...]

    def score(self, stack: Stack) -> NDArray[np.float32]:
        return _columns(stack) @ self.weights.astype(np.float32)

    def explain(self) -> dict[str, list[float]]:
        of_flags = self.weights[self.members + len(self.names) :].reshape(len(self.flags), self.members)
        more = {f"more if {flag}": row.tolist() for flag, row in zip(self.flags, of_flags, strict=True)}
        return {"weight": self.weights[: self.members].tolist(), **more}

    def explain_context(self) -> dict[str, dict[str, float]]:
        of_context = self.weights[self.members : self.members + len(self.names)].tolist()
        return {"weight": dict(zip(self.names, of_context, strict=True))} if self.names else {}


def _columns(stack: Stack) -> NDArray[np.float32]:
    """Logits (M), context (C), and the logits once more for each flag of the display, 0 where it is not set (K M)."""
    cold = np.repeat(stack.cold, stack.lengths, axis=0)
    return np.concatenate([stack.logits, stack.context, *(stack.logits * flag[:, None] for flag in cold.T)], axis=1)


def fit_linear(sample: Sample) -> Combination:
    """Weights of greatest listwise likelihood, drawn a little (ridge) towards those of the logits alone."""
    columns, members = _columns(sample.stack), sample.stack.logits.shape[1]
    spread = np.maximum(columns.std(axis=0), 1e-6).astype(np.float64)
    towards = np.zeros(columns.shape[1])
    towards[:members] = sample.likelihood * spread[:members]
    x = columns / spread.astype(np.float32)

    def loss(weights: Weights) -> tuple[float, Weights]:
        value, slope = listwise_loss(weights, x, sample.labels)
        away = weights - towards
        return value + _RIDGE * float(away @ away), slope + 2 * _RIDGE * away

    found = minimize(loss, towards, jac=True, method="L-BFGS-B")
    return Linear(np.asarray(found.x) / spread, members, sample.stack.names, sample.stack.flags)


# --- trees ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trees:
    """A weighted mean, corrected by boosted trees (lambdarank by display) on logits, their gaps and the context."""

    start: Weighted
    booster: lgb.Booster
    columns: tuple[str, ...]  # that they read beside the logits and their gaps

    def score(self, stack: Stack) -> NDArray[np.float32]:
        return self.start.score(stack) + np.asarray(self.booster.predict(_features(stack)), np.float32)

    def explain(self) -> dict[str, list[float]]:
        share, members = self._shares(), len(self.start.weights)
        of_member = share[:members] + share[members : 2 * members]
        return {**self.start.explain(), "share of the trees' gain": of_member.tolist()}

    def explain_context(self) -> dict[str, dict[str, float]]:
        of_context = self._shares()[2 * len(self.start.weights) :].tolist()
        return {"share of the trees' gain": dict(zip(self.columns, of_context, strict=True))}

    def _shares(self) -> Weights:
        gain = np.asarray(self.booster.feature_importance("gain"), np.float64)
        return gain / max(gain.sum(), 1e-12)


def _features(stack: Stack) -> NDArray[np.float32]:
    """Logits (M), how far each is below the display's best by it (M), context (C), and what is known of the display:
    present or future, number of ads, what is new in it (K).
    """
    best = np.repeat(np.maximum.reduceat(stack.logits, stack.offsets[:-1], axis=0), stack.lengths, axis=0)
    display = np.column_stack([stack.future, stack.lengths, stack.cold]).astype(np.float32)
    return np.concatenate(
        [stack.logits, best - stack.logits, stack.context, np.repeat(display, stack.lengths, axis=0)], axis=1
    )


def fit_trees(sample: Sample) -> Combination:
    """Trees that start from the likeliest mean of the logits, so that they only have to learn where it errs."""
    stack, labels, start = sample.stack, sample.labels, Weighted(sample.likelihood)
    data = lgb.Dataset(
        _features(stack),
        label=np.asarray(labels.clicked, np.float32),
        group=stack.lengths.astype(np.int32),
        init_score=start.score(stack).astype(np.float64),
        params=_TREES,
    )
    columns = (*stack.names, "future", "ads", *stack.flags)
    return Trees(start, lgb.train(_TREES, data, num_boost_round=_ROUNDS), columns)


# --- by part -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ByPart:
    """One combination for present displays and one for future ones."""

    present: Combination
    future: Combination

    def score(self, stack: Stack) -> NDArray[np.float32]:
        score = np.empty(len(stack.logits), np.float32)
        for combination, part in ((self.present, ~stack.future), (self.future, stack.future)):
            if part.any():
                score[np.repeat(part, stack.lengths)] = combination.score(stack.take(part))
        return score

    def explain(self) -> dict[str, list[float]]:
        return _by_part(self.present.explain(), self.future.explain())

    def explain_context(self) -> dict[str, dict[str, float]]:
        return _by_part(self.present.explain_context(), self.future.explain_context())


def _by_part(present: dict[str, C], future: dict[str, C]) -> dict[str, C]:
    parts = (("present", present), ("future", future))
    return {f"{name}, {heading}": column for name, part in parts for heading, column in part.items()}


def by_part(way: Way) -> Way:
    """Fit a way on present and on future displays apart; on all of them for a part that has too few."""

    def fit(sample: Sample) -> Combination:
        future = sample.stack.future
        return ByPart(
            *(way(sample.take(part) if part.sum() >= _LEAST_DISPLAYS else sample) for part in (~future, future))
        )

    return fit
