"""Blending: a weighted sum of the members' logits, its weights chosen for MAP@12 by cross-validation over displays.

Several ways to choose weights compete: each member alone, all alike, the weights of greatest listwise likelihood
(a convex problem), those of greatest smoothed MAP@12, and the mean of these three. Cross-validation says which way to
trust, and its score is the one reported: no display is scored by weights that have seen its label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from pipeline.core.config import check
from pipeline.core.progress import bar
from pipeline.metrics import FUTURE_WEIGHT, PRESENT_WEIGHT, Labelled, reciprocal_rank, tie_hash, weighted_mean

_ALONE, _MEAN = " alone", "mean"

Weights = NDArray[np.float64]
Chooser = Callable[[NDArray[np.float32], Labelled], Weights]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendConfig:
    """The section `blend` of params.yaml.

    members: names of models. folds: of the cross-validation. search_displays: on how many displays weights are sought.
    """

    members: tuple[str, ...]
    folds: int = 5
    search_displays: int = 500_000

    def __post_init__(self) -> None:
        check(len(self.members) >= 1, "members: expected at least one model")
        check(len(set(self.members)) == len(self.members), f"members: one stands twice in {list(self.members)}")
        check(self.folds >= 2, f"folds: must be 2 or more, found {self.folds}")


@dataclass(frozen=True, slots=True)
class Blend:
    """weights: (M,) of the members' logits. way: how they were chosen. validated: cross-validated MAP@12 of each way.

    out_of_fold: (N,) the chosen way's scores, each display by weights that were chosen without it.
    """

    weights: Weights
    way: str
    validated: dict[str, float]
    out_of_fold: NDArray[np.float32]


def blend(logits: NDArray[np.float32], labels: Labelled, config: BlendConfig) -> Blend:
    """Choose the weights of the members' logits (N, M) by cross-validation over displays."""
    ways = _ways(config.members)
    fold = (tie_hash(labels.display_id, np.zeros_like(labels.display_id)) % np.uint64(config.folds)).astype(np.int64)
    scores = {way: np.zeros(len(logits), dtype=np.float32) for way in ways}
    lengths = np.diff(labels.offsets)
    with bar(config.folds * len(ways), "blending", "fit") as shown:
        for held_out in range(config.folds):
            rows = np.repeat(fold == held_out, lengths)
            if not rows.any():
                continue
            others = _subset(logits, labels, fold != held_out, config.search_displays)
            for way, choose in ways.items():
                weights = _scaled(choose(*others), *others)
                scores[way][rows] = logits[rows] @ weights.astype(np.float32)
                shown.update(1)
    gains = {way: _gain(score, labels) for way, score in scores.items()}
    validated = {way: weighted_mean(gain, labels.slices["future"]) for way, gain in gains.items()}
    way = _best(validated, gains, labels.slices["future"])
    everything = _subset(logits, labels, np.ones(len(fold), bool), config.search_displays)
    return Blend(_scaled(ways[way](*everything), *everything), way, validated, scores[way])


def _gain(score: NDArray[np.float32], labels: Labelled) -> NDArray[np.float64]:
    return reciprocal_rank(score, labels.clicked, labels.offsets, labels.display_id, labels.ad_id)


def _best(validated: dict[str, float], gains: dict[str, NDArray[np.float64]], future: NDArray[np.bool_]) -> str:
    """The way to trust: `mean`, unless another combination is clearly better; a member alone, if it is clearly better
    than every combination. Clearly: by more than two standard errors of their difference.

    A member stopped training at its best on these very displays, which flatters it alone; to combine is the safer bet,
    and what the ways have in common safer than any of them.
    """

    def clearly(way: str, other: str) -> bool:
        return validated[way] - validated[other] > 2 * _standard_error(gains[way] - gains[other], future)

    alone, combined = ([w for w in validated if w.endswith(_ALONE) == single] for single in (True, False))
    single = max(alone, key=lambda way: validated[way])
    if not combined:
        return single
    best = max(combined, key=lambda way: validated[way])
    if clearly(single, best):
        return single
    return best if clearly(best, _MEAN) else _MEAN


def _standard_error(value: NDArray[np.float64], future: NDArray[np.bool_]) -> float:
    """Of `weighted_mean`: present and future are two samples, which count by their shares, whatever their sizes."""
    parts = [value[part] for part in (~future, future) if part.any()]
    shares = (PRESENT_WEIGHT, FUTURE_WEIGHT) if len(parts) == 2 else (1.0,)
    return float(np.sqrt(sum(share**2 * part.var() / len(part) for share, part in zip(shares, parts, strict=True))))


def _ways(members: Sequence[str]) -> dict[str, Chooser]:
    """All ways to choose weights, the simplest first."""
    count = len(members)
    ways: dict[str, Chooser] = {
        f"{name}{_ALONE}": (lambda logits, labels, i=i: np.eye(count)[i])  # type: ignore[misc]
        for i, name in enumerate(members)
    }
    if count > 1:
        ways |= {
            "equal": equal_weights,
            "likelihood": likelihood_weights,
            "smooth": smooth_weights,
            _MEAN: mean_weights,
        }
    return ways


def equal_weights(logits: NDArray[np.float32], labels: Labelled) -> Weights:
    """As much of each member (M,), once its logits are scaled to their own greatest likelihood."""
    members = range(logits.shape[1])
    return np.array([likelihood_weights(logits[:, [i]], labels)[0] for i in members]) / len(members)


def likelihood_weights(logits: NDArray[np.float32], labels: Labelled) -> Weights:
    """Non-negative weights (M,) of greatest likelihood, the softmax over each display of the weighted logits."""
    starts, lengths = labels.offsets[:-1], np.diff(labels.offsets)
    x = logits.astype(np.float64)
    clicked = x[np.asarray(labels.clicked) != 0].sum(0)

    def loss(weights: Weights) -> tuple[float, Weights]:
        z = x @ weights
        top = np.maximum.reduceat(z, starts)
        e = np.exp(z - np.repeat(top, lengths))
        total = np.add.reduceat(e, starts)
        p = e / np.repeat(total, lengths)
        value = float((np.log(total) + top).sum() - clicked @ weights)
        return value / len(starts), (x.T @ p - clicked) / len(starts)

    start = np.full(x.shape[1], 1 / x.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * x.shape[1])
    return np.asarray(found.x) if found.x.sum() > 0 else start


def _scaled(weights: Weights, logits: NDArray[np.float32], labels: Labelled) -> Weights:
    """The weights times the factor of greatest likelihood: ranks stay, probabilities become right."""
    return weights * likelihood_weights((logits @ weights.astype(np.float32))[:, None], labels)[0]


def smooth_weights(logits: NDArray[np.float32], labels: Labelled) -> Weights:
    """Non-negative weights (M,) of greatest smoothed MAP@12, as large as those of greatest likelihood.

    The rank of the click c among the ads j of its display is 1 + sum_j [z_j > z_c]; with the sigmoid of z_j - z_c for
    the step it has a gradient (Qin, Liu and Li 2010, "A general approximation framework for direct optimization of
    information retrieval measures"). Only the direction is searched: the longer the weights, the less smooth.
    """
    starts, lengths = labels.offsets[:-1], np.diff(labels.offsets)
    clicked = np.asarray(labels.clicked) != 0
    x = logits.astype(np.float64)
    ahead = x - np.repeat(x[clicked], lengths, axis=0)  # z_j - z_c of each member
    start = likelihood_weights(logits, labels)
    length = _spread(ahead @ start)

    def loss(direction: Weights) -> tuple[float, Weights]:
        z = ahead @ direction
        scale = length / max(_spread(z), 1e-12)
        step = np.where(clicked, 0.0, expit(z * scale))
        gain = 1 / (1 + np.add.reduceat(step, starts))
        slope = -(np.repeat(gain**2, lengths) * step * (1 - step)) @ ahead / len(starts)  # of the gain, by the weights
        shrink = -scale * (ahead.T @ z) / max(z @ z, 1e-12)  # of the scale, by the direction
        return -float(gain.mean()), -(scale * slope + (slope @ direction) * shrink)

    found = minimize(loss, start + 1e-3, jac=True, method="L-BFGS-B", bounds=[(0, None)] * x.shape[1])
    return np.asarray(found.x) if found.x.sum() > 0 else start


def mean_weights(logits: NDArray[np.float32], labels: Labelled) -> Weights:
    """The mean of the weights (M,) that are equal, of greatest likelihood and of greatest smoothed MAP@12."""
    ways = (equal_weights, likelihood_weights, smooth_weights)
    return np.mean([_scaled(choose(logits, labels), logits, labels) for choose in ways], axis=0)


def _spread(values: Weights) -> float:
    return float(np.sqrt((values**2).mean()))


def _subset(
    logits: NDArray[np.float32], labels: Labelled, displays: NDArray[np.bool_], most: int
) -> tuple[NDArray[np.float32], Labelled]:
    """The rows of some displays, thinned out evenly to `most` of them."""
    chosen = np.flatnonzero(displays)
    if len(chosen) > most:
        chosen = chosen[np.linspace(0, len(chosen) - 1, most).astype(np.int64)]
    mask = np.zeros(len(displays), dtype=bool)
    mask[chosen] = True
    lengths = np.diff(labels.offsets)
    rows = np.repeat(mask, lengths)
    return logits[rows], replace(
        labels,
        clicked=np.asarray(labels.clicked)[rows],
        ad_id=np.asarray(labels.ad_id)[rows],
        display_id=np.asarray(labels.display_id)[mask],
        offsets=np.concatenate([[0], np.cumsum(lengths[mask])]),
        slices={name: values[mask] for name, values in labels.slices.items()},
    )


def correlations(logits: NDArray[np.float32], labels: Labelled) -> NDArray[Any]:
    """How alike the members rank: correlation (M, M) of their logits, each display's mean taken out."""
    lengths = np.diff(labels.offsets)
    means = np.add.reduceat(logits.astype(np.float64), labels.offsets[:-1], axis=0) / lengths[:, None]
    centred = logits - np.repeat(means, lengths, axis=0)
    scale = np.sqrt((centred**2).sum(0))
    return (centred.T @ centred) / np.maximum(np.outer(scale, scale), 1e-12)
