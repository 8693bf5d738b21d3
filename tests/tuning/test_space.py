"""A search space as Optuna knows it."""

from __future__ import annotations

import dataclasses
from typing import Any

import optuna
import pytest

from pipeline.models.base import Choice, SearchSpace, Uniform
from pipeline.tuning.space import decoded, distributions, encoded, plain

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
