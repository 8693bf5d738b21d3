"""When things happen: the profile of days and hours, and which displays are train and which are test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation.randomness import F64, I64, Stream
from pipeline.sources.simulation.scale import DAYS, TRAIN_DAYS, Scale

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: Ads start and stop, and the ads on offer change, at the borders of these blocks of a day.
BLOCK_HOURS = 6
BLOCKS = DAYS * 24 // BLOCK_HOURS

#: Displays by hour of the day from 04:00 UTC, midnight in New York, on: the American night is quiet, its evening busy.
_HOURS = (
    *(0.78, 0.62, 0.50, 0.42, 0.40, 0.45, 0.60, 0.85),
    *(1.05, 1.20, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25),
    *(1.25, 1.20, 1.20, 1.20, 1.30, 1.40, 1.35, 1.05),
)
#: By day from Tuesday, 14 June 2016, on: weekends are quieter.
_DAYS = (1.0, 1.02, 1.02, 0.98, 0.86, 0.88, 1.0, 1.02, 1.03, 1.0, 0.97, 0.85, 0.88, 1.03, 1.04)


class Clock:
    """Time as a function of place: the i-th of n things in order of time happens at the quantile (i + u) / n.

    Times are milliseconds from the start of day 0; they never decrease with i, whoever asks and in whatever order.
    """

    def __init__(self, scale: Scale, seed: int) -> None:
        self._scale = scale
        intensity = np.outer(np.array(_DAYS), np.array(_HOURS)).ravel()
        self._cumulative: F64 = np.concatenate([[0.0], np.cumsum(intensity)])
        self._borders: F64 = np.arange(DAYS * 24 + 1, dtype=np.float64) * HOUR_MS
        self._jitter = Stream(seed, "clock")
        self._test = Stream(seed, "clock.test")
        self._end_of_train = TRAIN_DAYS * DAY_MS

    def displays(self, index: I64) -> I64:
        """Times of the displays, by their place in the order of time; before and after the end of train apart."""
        jitter = self._jitter.uniform(index)
        before, future = self._scale.before, self._scale.future
        late = index >= before
        share = np.where(late, (index - before + jitter) / future, (index + jitter) / before)
        border = self._cumulative[TRAIN_DAYS * 24]
        low = np.where(late, border, 0.0)
        high = np.where(late, self._cumulative[-1], border)
        time = self._at(low + share * (high - low))
        return np.where(late, np.maximum(time, self._end_of_train), np.minimum(time, self._end_of_train - 1))

    def views(self, index: I64, total: int) -> I64:
        """Times of page views, by their place among `total`."""
        return self.quantile((index + self._jitter.uniform(index, 1)) / total)

    def quantile(self, share: F64) -> I64:
        """The time before which this share of all page views happens."""
        return self._at(share * self._cumulative[-1])

    def block(self, number: int) -> tuple[int, int]:
        """The places [low, high) of the displays of a block of BLOCK_HOURS."""
        edges = [self._place(number * BLOCK_HOURS), self._place((number + 1) * BLOCK_HOURS)]
        return edges[0], edges[1]

    def is_test(self, index: I64) -> NDArray[np.bool_]:
        """Whether a display is in test: all of the future, and one at random of each `before / present` before it."""
        test: NDArray[np.bool_] = (index >= self._scale.before) | (index == self._chosen(index))
        return test

    def display_id(self, index: I64) -> I64:
        """Display ids, by place: train 1..n in order of time, then test in order of time."""
        before, present, train = self._scale.before, self._scale.present, self._scale.train
        stratum = np.minimum(index, before - 1) * present // before if present else np.zeros_like(index)
        tests_earlier = np.where(index >= before, index - train, stratum + (self._chosen(index) < index))
        return np.where(self.is_test(index), train + tests_earlier, index - tests_earlier) + 1

    def _chosen(self, index: I64) -> I64:
        """The place of the test display in the stratum to which a place belongs; -1 where there is none."""
        before, present = self._scale.before, self._scale.present
        if not present:
            return np.full_like(index, -1)
        stratum = np.minimum(index, before - 1) * present // before
        low = -(-stratum * before // present)
        high = -(-(stratum + 1) * before // present)
        chosen: I64 = low + (self._test.bits(stratum) % (high - low).astype(np.uint64)).astype(np.int64)
        return chosen

    def _place(self, hour: int) -> int:
        border = TRAIN_DAYS * 24
        if hour <= border:
            return int(self._scale.before * self._cumulative[hour] / self._cumulative[border])
        part = self._cumulative[hour] - self._cumulative[border]
        return self._scale.before + int(self._scale.future * part / (self._cumulative[-1] - self._cumulative[border]))

    def _at(self, mass: F64) -> I64:
        time = np.interp(mass, self._cumulative, self._borders).astype(np.int64)
        return np.clip(time, 0, DAYS * DAY_MS - 1)
