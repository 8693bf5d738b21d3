"""Weights (M,) of the members' logits, none negative: equal ones, of greatest likelihood, of greatest MAP@12."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from scipy.optimize import minimize

from pipeline.metrics import Labelled, map12, softmax

Weights = NDArray[np.float64]

_BLOCK_DISPLAYS = 1 << 18


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


def searched_weights(logits: NDArray[np.float32], labels: Labelled, start: Weights, trials: int) -> Weights:
    """Non-negative weights (M,) of greatest MAP@12 among some that Optuna tries, `start` before all others.

    MAP@12 is a staircase without a gradient, hence the search, by tree-structured Parzen estimators (Bergstra et al.
    2011, "Algorithms for hyper-parameter optimization"). A weight is in units of its member's spread, and at most twice
    the greatest of `start`.
    """
    spread = np.maximum(logits.std(axis=0), np.float32(1e-6))
    x, first = logits / spread, start * spread
    highest = 2 * float(first.max())

    def gain(trial: optuna.Trial) -> float:
        tried = [trial.suggest_float(str(i), 0, highest) for i in range(len(first))]
        return map12(x @ np.array(tried, np.float32), labels)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    study.enqueue_trial({str(i): float(weight) for i, weight in enumerate(first)})
    study.optimize(gain, n_trials=trials)
    return np.array([study.best_params[str(i)] for i in range(len(first))]) / spread


def correlations(logits: NDArray[np.float32], labels: Labelled) -> NDArray[Any]:
    """How alike the members rank: correlation (M, M) of their logits, each display's mean taken out."""
    members, offsets = logits.shape[1], labels.offsets
    products = np.zeros((members, members))
    for first in range(0, len(offsets) - 1, _BLOCK_DISPLAYS):
        borders = offsets[first : first + _BLOCK_DISPLAYS + 1]
        values, lengths = logits[borders[0] : borders[-1]].astype(np.float64), np.diff(borders)
        means = np.add.reduceat(values, borders[:-1] - borders[0], axis=0) / lengths[:, None]
        values -= np.repeat(means, lengths, axis=0)
        products += values.T @ values
    scale = np.sqrt(np.diag(products))
    return products / np.maximum(np.outer(scale, scale), 1e-12)
