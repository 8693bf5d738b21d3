"""Fits that each leave some displays out, beside each other: one pass through the data, which is read but once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pipeline.factorization.displays import Displays
from pipeline.factorization.training import Arrays, Learner


class Folds:
    """Learners as one: the k-th learns from all displays but those that it is to leave out, and scores just these.

    threads: how many learn at once. Each is the same as if it learned alone.
    """

    def __init__(self, learners: Sequence[Learner], threads: int) -> None:
        self.learners = learners
        self._threads = ThreadPoolExecutor(threads)

    def reach(self, epochs: float) -> None:
        for learner in self.learners:
            learner.reach(epochs)

    def learn(self, displays: Displays, order: NDArray[np.int64]) -> float:
        """The sum of the mean losses of those that learn from a display."""
        shares = [order[displays.left_out[order] != k] for k in range(len(self.learners))]
        losses = self._threads.map(lambda learner, share: learner.learn(displays, share), self.learners, shares)
        return sum(losses) * len(order) / max(1, sum(map(len, shares)))

    def score(self, displays: Displays, which: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """What no learner leaves out is scored by the first."""
        by = np.maximum(displays.left_out[which], 0)
        for k, learner in enumerate(self.learners):
            learner.score(displays, which[by == k], out)

    def state(self) -> Arrays:
        return _joined(learner.state() for learner in self.learners)

    def weights(self) -> Arrays:
        return _joined(learner.weights() for learner in self.learners)

    def keep(self, weights: Arrays) -> None:
        for k, learner in enumerate(self.learners):
            start = f"{k}_"
            learner.keep({name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)})


def _joined(arrays: Iterable[Arrays]) -> Arrays:
    return {f"{k}_{name}": array for k, of_one in enumerate(arrays) for name, array in of_one.items()}
