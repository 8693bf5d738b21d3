"""Shows and lifts by day and hour, against plain loops."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.features import trends
from pipeline.features.smoothing import UNITS
from pipeline.schemas.raw import MOST_DAYS
from tests.rates_reference import KEYS

DAY_MS = 86_400_000
PERIODS = {"day": DAY_MS, "hour": DAY_MS // 24}
RATE = 0.1936
Rows = list[dict[str, Any]]


def test_weights_of_all_days_that_can_be_add_up_in_an_int64() -> None:
    """Whatever a key's shows are: no key has more than all displays of the competition, each of which counts UNITS."""
    assert trends._FIRST_WEIGHT * 2 ** ((MOST_DAYS - 1) / trends._HALF_LIFE) * 23_120_126 * UNITS < 2**63


class Trend:
    """Counts of one key by period."""

    def __init__(self, history: Rows, target: Rows, key: str, length: int) -> None:
        self.shows: Counter[tuple[Any, int]] = Counter()
        self.clicks: dict[Any, Counter[int]] = defaultdict(Counter)
        self.expected: dict[Any, Counter[int]] = defaultdict(Counter)
        known = [row for row in (*history, *target) if row[key] is not None and row["timestamp"] is not None]
        for row in known:
            self.shows[row[key], row["timestamp"] // length] += 1
        for row in history:
            if row["timestamp"] is not None:
                self.clicks[row[key]][row["timestamp"] // length] += row["clicked"]
                self.expected[row[key]][row["timestamp"] // length] += 1 / row["ads"]
        self.first = min(time for _, time in self.shows)
        self.last = max(time for _, time in self.shows)

    def values(self, key: Any, time: int, strength: float) -> dict[str, float]:
        """The measures of a key in a period."""
        prior = strength * RATE

        def before(counter: Counter[int]) -> float:
            return sum(count for at, count in counter.items() if at < time)

        def decayed(counter: Counter[int]) -> float:
            weights = {at: round(1024 * 2 ** ((at - self.first) / 3)) for at in (*counter, time)}
            return sum(count * weights[at] for at, count in counter.items() if at < time) / weights[time]

        clicks, expected = self.clicks[key], self.expected[key]
        ratio = (before(clicks) + prior) / (before(expected) + prior)
        lift = (clicks[time - 1] + prior * ratio) / (expected[time - 1] + prior)
        following = self.shows[key, time if time == self.last else time + 1]
        return {
            "previous": math.nan if time == self.first else math.log1p(self.shows[key, time - 1]),
            "same": math.log1p(self.shows[key, time]),
            "next": math.log1p(following),
            "trend": math.log(lift / ratio),
            "before": math.log(ratio),
            "drift": math.log((decayed(clicks) + prior * ratio) / (decayed(expected) + prior) / ratio),
        }


def close(found: float | None, expected: float) -> bool:
    """Equal but for the rounding to float32; unknown is None here and NaN there."""
    if found is None:
        return math.isnan(expected)
    return math.isclose(found, expected, rel_tol=1e-5, abs_tol=1e-6)


@pytest.mark.parametrize("strength", [12.0, 0.5])
def test_trends(values_of: Callable[..., Any], strength: float) -> None:
    parts = values_of("trends", strength=strength)
    history, target = parts["history"][0], parts["target"][0]
    unknown = 0
    for period, length in PERIODS.items():
        for name, column in KEYS.items():
            trend = Trend(history, target, column, length)
            for rows, found in parts.values():
                for row, values in zip(rows, found, strict=True):
                    of = {m: values[f"{name}_{period}_{m}"] for m in ("previous", "same", "next", "trend")}
                    of |= (
                        {"before": values[f"{name}_lift_before"]}
                        if period == "hour"
                        else {"drift": values[f"{name}_drift"]}
                    )
                    if row["timestamp"] is None or row[column] is None:
                        unknown += 1
                        assert set(of.values()) == {None}
                        continue
                    expected = trend.values(row[column], row["timestamp"] // length, strength)
                    astray = {m: (value, expected[m]) for m, value in of.items() if not close(value, expected[m])}
                    assert astray == {}, (name, period, row)
    assert unknown > 100
