"""A search space as Optuna knows it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import optuna
import pytest

from pipeline.models.base import Choice, SearchSpace, Uniform
from pipeline.tuning.space import decoded, distributions, encoded, near, plain

SPACE: SearchSpace = {
    "rate": Uniform(low=0.1, high=1.0, log=True),
    "l1": Uniform(low=0.0, high=2.0),
    "leaves": Uniform(low=7, high=255, log=True, whole=True),
    "hidden": Choice(values=((64,), (128, 64))),
}


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.5
    l1: float = 0.0
    leaves: int = 15
    hidden: tuple[int, ...] = (64,)


@pytest.mark.parametrize(
    "config",
    [Config(), Config(rate=0.01, leaves=3), Config(rate=7.0, l1=3.0, leaves=999), Config(hidden=(64, 32))],
    ids=["within", "below", "above", "another choice"],
)
def test_the_defaults_can_be_tried(config: Config) -> None:
    """Whatever they are: what Optuna holds comes back as it was, and is one of the values that it may try."""
    study = optuna.create_study()
    study.enqueue_trial(encoded(SPACE, config))
    trial = study.ask(distributions(SPACE, config))
    assert trial.params == encoded(SPACE, config)
    assert dataclasses.replace(Config(), **decoded(SPACE, trial.params)) == config
    for name, distribution in distributions(SPACE, config).items():
        assert distribution._contains(distribution.to_internal_repr(trial.params[name]))


def test_what_has_no_logarithm_is_the_lowest() -> None:
    config = Config(rate=0.0)
    assert encoded(SPACE, config)["rate"] == 0.1
    assert distributions(SPACE, config) == distributions(SPACE, Config())


def test_values_stay_where_the_space_is_wide_enough() -> None:
    found = distributions(SPACE, Config())
    assert found["rate"] == optuna.distributions.FloatDistribution(0.1, 1.0, log=True)
    assert found["leaves"] == optuna.distributions.IntDistribution(7, 255, log=True)
    assert found["hidden"] == optuna.distributions.CategoricalDistribution(("[64]", "[128, 64]"))


@pytest.mark.parametrize(("value", "expected"), [(0.123456789, 0.12346), (7, 7), ((64, 32), [64, 32]), ("a", "a")])
def test_values_for_yaml(value: Any, expected: Any) -> None:
    assert plain(value) == expected


def test_a_set_near_another_one() -> None:
    """Half of the numbers take a step, on average, and fewer of the choices; nothing leaves its range."""
    within, start = distributions(SPACE, Config()), encoded(SPACE, Config())
    random = np.random.default_rng(0)
    found = [near(start, within, random) for _ in range(400)]
    for params in found:
        assert all(within[name]._contains(within[name].to_internal_repr(value)) for name, value in params.items())
    assert np.mean([params == start for params in found]) < 0.02, "but for a step to the same whole number"
    moved = {name: np.mean([params[name] != start[name] for params in found]) for name in SPACE}
    assert all(0.4 < moved[name] < 0.62 for name in ("rate", "l1", "leaves")), moved
    assert 0.2 < moved["hidden"] < 0.4
    steps = [np.log(params["rate"] / start["rate"]) for params in found if params["rate"] != start["rate"]]
    assert 0.5 < np.std(steps) / (0.15 * np.log(10)) < 1.2
    assert {type(params["leaves"]) for params in found} == {int}


def test_nothing_is_near_where_there_is_no_choice() -> None:
    space: SearchSpace = {"hidden": Choice(values=((64,),))}
    within, start = distributions(space, Config()), encoded(space, Config())
    assert near(start, within, np.random.default_rng(0)) == start
