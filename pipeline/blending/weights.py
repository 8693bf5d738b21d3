"""Weights (M,) of the members' logits, none negative, of greatest likelihood or smoothed MAP@12, and their mean."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from pipeline.metrics import Labelled, softmax

Weights = NDArray[np.float64]


def equal_weights(logits: NDArray[np.float32], labels: Labelled) -> Weights:
    """As much of each member (M,), once its logits are scaled to their own greatest likelihood."""
    members = range(logits.shape[1])
    return np.array([likelihood_weights(logits[:, [i]], labels)[0] for i in members]) / len(members)


def listwise_loss(weights: Weights, columns: NDArray[Any], labels: Labelled) -> tuple[float, Weights]:
    """The mean over displays of -log of the click's chance, for the scores columns @ weights, and its gradient.

    columns: (N, P). weights: (P,).
    """
    losses, p = softmax(columns @ weights, labels.offsets, labels.clicked)
    slope = columns.T @ (p - (np.asarray(labels.clicked) != 0)) / len(losses)
    return float(losses.sum()) / len(losses), slope


def likelihood_weights(logits: NDArray[np.float32], labels: Labelled) -> Weights:
    """Weights (M,) of greatest likelihood, the softmax over each display of the weighted logits: a convex problem."""
    x = logits.astype(np.float64)
    start = np.full(x.shape[1], 1 / x.shape[1])
    found = minimize(listwise_loss, start, (x, labels), jac=True, method="L-BFGS-B", bounds=[(0, None)] * x.shape[1])
    return np.asarray(found.x) if found.x.sum() > 0 else start


def scaled(weights: Weights, logits: NDArray[np.float32], labels: Labelled) -> Weights:
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
    """The mean of the weights (M,) of greatest likelihood and of greatest smoothed MAP@12."""
    ways = (likelihood_weights, smooth_weights)
    return np.mean([scaled(choose(logits, labels), logits, labels) for choose in ways], axis=0)


def _spread(values: Weights) -> float:
    return float(np.sqrt((values**2).mean()))


def correlations(logits: NDArray[np.float32], labels: Labelled) -> NDArray[Any]:
    """How alike the members rank: correlation (M, M) of their logits, each display's mean taken out."""
    lengths = np.diff(labels.offsets)
    means = np.add.reduceat(logits.astype(np.float64), labels.offsets[:-1], axis=0) / lengths[:, None]
    centred = logits - np.repeat(means, lengths, axis=0)
    scale = np.sqrt((centred**2).sum(0))
    return (centred.T @ centred) / np.maximum(np.outer(scale, scale), 1e-12)
