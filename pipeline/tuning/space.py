"""A model's search space as Optuna knows it, and back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.models.base import Choice, SearchSpace, Uniform

#: The standard deviation of a step, as a share of the range.
_STEP = 0.15
#: The chance that a number takes one, and that a choice becomes another, which may change much more.
_NUMBER_MOVES, _CHOICE_MOVES = 0.5, 0.25


def distributions(space: SearchSpace, config: Any) -> dict[str, BaseDistribution]:
    """Of each parameter; all are widened to hold what `config` says, so that the search can go on from there."""
    return {name: _distribution(values, getattr(config, name)) for name, values in space.items()}


def _distribution(values: Uniform | Choice, default: Any) -> BaseDistribution:
    if isinstance(values, Choice):
        choices = values.values if default in values.values else (default, *values.values)
        return CategoricalDistribution([json.dumps(value) for value in choices])
    reachable = default > 0 or not values.log  # there is no logarithm of 0
    low, high = (min(values.low, default), max(values.high, default)) if reachable else (values.low, values.high)
    if values.whole:
        return IntDistribution(int(low), int(high), log=values.log)
    return FloatDistribution(low, high, log=values.log)


def encoded(space: SearchSpace, config: Any) -> dict[str, Any]:
    """The values of `config` as Optuna holds them: choices as JSON, since its storage knows no tuples; the lowest one
    in place of a 0 that has no logarithm."""
    found: dict[str, Any] = {}
    for name, values in space.items():
        value = getattr(config, name)
        if isinstance(values, Choice):
            found[name] = json.dumps(value)
        else:
            found[name] = values.low if values.log and value <= 0 else value
    return found


def decoded(space: SearchSpace, params: dict[str, Any]) -> dict[str, Any]:
    """Optuna's values as a config holds them."""
    found = {name: json.loads(v) if isinstance(space[name], Choice) else v for name, v in params.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def near(params: dict[str, Any], within: dict[str, BaseDistribution], random: np.random.Generator) -> dict[str, Any]:
    """A set near another one: some of its values, but at least one, take a step; a choice becomes any other."""
    movable = {
        name: _CHOICE_MOVES if isinstance(distribution, CategoricalDistribution) else _NUMBER_MOVES
        for name, distribution in within.items()
        if not distribution.single()
    }
    if not movable:
        return dict(params)
    moved = [name for name, chance in movable.items() if random.random() < chance]
    moved = moved or [list(movable)[random.integers(len(movable))]]
    return params | {name: _step(params[name], within[name], random) for name in moved}


def _step(value: Any, within: BaseDistribution, random: np.random.Generator) -> Any:
    if isinstance(within, CategoricalDistribution):
        others = [choice for choice in within.choices if choice != value]
        return others[random.integers(len(others))]
    assert isinstance(within, FloatDistribution | IntDistribution)
    low, high, at = (math.log(v) if within.log else v for v in (within.low, within.high, value))
    at += random.normal(0, _STEP) * (high - low)
    at = low + abs(at - low)  # what leaves the range is reflected at its end
    at = max(low, high - abs(high - at))
    found = min(max(math.exp(at) if within.log else at, within.low), within.high)
    return round(found) if isinstance(within, IntDistribution) else found


def plain(value: Any) -> Any:
    """For YAML: five significant digits say all that a search knows."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return list(value) if isinstance(value, tuple) else value
