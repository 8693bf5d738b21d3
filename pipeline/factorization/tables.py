"""What FM and FFM have in common: a table of vectors with AdaGrad, and how strongly each id is regularised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import check
from pipeline.core.simd import aligned
from pipeline.factorization.displays import Displays, Inputs, Reader
from pipeline.factorization.training import Arrays, FactorizationConfig
from pipeline.schemas.encoded import EncodedPart

_CHUNK = 1 << 16  # ids that get their first numbers at once


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig(FactorizationConfig):
    """k: numbers in a vector. learning_rate, l2: eta and lambda of Juan et al. 2016, algorithm 1.

    normalize: divide a row's pairs by the sum of x^2, as if each instance had length 1 (Juan et al. 2016, section 3.1).
    spread: vectors begin with random numbers from 0 to spread / sqrt(k).
    l2_frequency: an id that history holds n times is regularised by l2 / n ** l2_frequency each time that it is read.
    0: as often as it is seen, like libffm (Li et al. 2016, "DiFacto": frequency adaptive); 1: every id as much in an
    epoch, however often it is seen (Zhou et al. 2018, "Deep Interest Network", eq. 4 to 6).
    """

    k: int = 4
    learning_rate: float = 0.2
    l2: float = 2e-5
    l2_frequency: float = 0.0
    normalize: bool = True
    spread: float = 1.0

    def __post_init__(self) -> None:
        FactorizationConfig.__post_init__(self)
        check(1 <= self.k <= 64, f"k: must be from 1 to 64, found {self.k}")
        for name in ("learning_rate", "spread"):
            check(getattr(self, name) > 0, f"{name}: must be above 0, found {getattr(self, name)}")
        check(self.l2 >= 0, f"l2: must be 0 or more, found {self.l2}")
        check(0 <= self.l2_frequency <= 1, f"l2_frequency: must be from 0 to 1, found {self.l2_frequency}")


class TableLearner(ABC):
    """Learns with the kernels of a module (fm or ffm): Scratch.make, learn and score.

    kernels: the module. size: numbers in the block of an id.
    table: (ids, 2, size): the blocks, then the sums of squared gradients; (ids, 1, size) when learning is over.
    """

    def __init__(
        self, kernels: Any, inputs: Inputs, config: TableConfig, history: EncodedPart | None, size: int
    ) -> None:
        self.kernels, self.config, self.size = kernels, config, size
        self.k = (0,) * config.k  # see core.simd
        self.inputs, self.shape = inputs, tuple(inputs.pairs.values())
        self.bias = np.array([0, 1], np.float32)
        self.l2 = np.full(1, config.l2, np.float32)
        self.table = aligned((0, 2, size))
        if history is not None:
            self.table = aligned((inputs.table_size, 2, size))
            self.table[:, 1] = 1  # as in libffm, so that the first steps are not huge
            self._start(self.table[:, 0])
            if config.l2_frequency:
                counts = np.maximum(_counts(history, inputs), 1)
                self.l2 = (config.l2 / counts**config.l2_frequency).astype(np.float32)

    def _start(self, blocks: NDArray[np.float32]) -> None:
        """Random vectors; linear weights are 0."""
        random = np.random.default_rng(self.config.seed)
        high = np.float32(self.config.spread / np.sqrt(self.config.k))
        for first in range(0, len(blocks), _CHUNK):
            piece = blocks[first : first + _CHUNK]
            piece[:] = high * random.random(piece.shape, np.float32)
        self.clear_weights(blocks)

    @abstractmethod
    def clear_weights(self, blocks: NDArray[np.float32]) -> None:
        """Set the linear weight in each of some blocks (ids, size) to 0."""

    def reach(self, epochs: float) -> None:
        del epochs  # nothing here depends on it

    def learn(self, displays: Displays, order: NDArray[np.int64]) -> float:
        c = self.config
        scratch = self.kernels.Scratch.make(*self.shape, c.k, displays.most)
        listwise = c.loss == "listwise"
        flat = self.table.reshape(-1)
        arguments = flat, self.bias, self.k, listwise, c.normalize, c.learning_rate, self.l2, scratch
        return float(self.kernels.learn(displays, order, *arguments))

    def score(self, displays: Displays, which: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        scratch = self.kernels.Scratch.make(*self.shape, self.config.k, displays.most)
        flat, stride = self.table.reshape(-1), self.table.shape[1] * self.size
        arguments = flat, stride, float(self.bias[0]), self.k, self.config.normalize, scratch
        self.kernels.score(displays, which, *arguments, out)

    def state(self) -> Arrays:
        return {"table": self.table, "bias": self.bias}

    def weights(self) -> Arrays:
        return {"table": self.table[:, :1].copy(), "bias": self.bias.copy()}

    def keep(self, weights: Arrays) -> None:
        self.table, self.bias = weights["table"], weights["bias"]


def _counts(history: EncodedPart, inputs: Inputs) -> NDArray[np.int64]:
    """How often each id is read in an epoch; what a display's ads share is read by each of them."""
    counts = np.zeros(inputs.table_size, np.int64)
    for _, displays in Reader(history, inputs).in_order():
        counts += np.bincount(displays.own.ids, minlength=len(counts))
        starts, fields = displays.shared.starts, displays.shared.fields
        ads = np.repeat(np.diff(displays.offsets), np.diff(starts[:: max(1, fields)])) if fields else None
        counts += np.bincount(displays.shared.ids, ads, minlength=len(counts)).astype(np.int64)
    return counts
