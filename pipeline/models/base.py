"""What a model is to the rest of the pipeline, and how it is found by its kind.

A model is a module pipeline/models/KIND.py with `Config` (a dataclass of its parameters), `SEARCH_SPACE` (name of a
parameter -> the values that tuning may try) and `build(config) -> Model`; `SEARCH_STARTS` if tuning should try some
sets first; `DISTRIBUTED = True` if several machines can fit it together. To add one, write the module, put an entry
with `kind: KIND` under `models` in params.yaml, and name it in dvc.yaml (README.md says where).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import parse, read_yaml
from pipeline.core.errors import ParameterError
from pipeline.core.progress import log
from pipeline.schemas.encoded import Encoded, EncodedPart
from pipeline.schemas.fitting import FitOptions, Fitted


@dataclass(frozen=True, kw_only=True, slots=True)
class Uniform:
    """Any number from low to high; evenly by its logarithm if `log`; whole numbers only if `whole`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]


SearchSpace = dict[str, Uniform | Choice]
#: Sets that have proved good on some world, each as what it changes of the defaults: tuning tries them first. Feurer et
#: al. 2015, "Initializing Bayesian hyperparameter optimization via meta-learning", starts a search that way.
SearchStarts = tuple[dict[str, Any], ...]


#: What networks have in common.
NETWORK_SPACE: SearchSpace = {
    "embedding_dim": Choice(values=(4, 8, 16)),
    "hidden": Choice(values=((64,), (128, 64), (256, 128))),
    "dropout": Uniform(low=0.0, high=0.5),
    "learning_rate": Uniform(low=3e-4, high=1e-2, log=True),
    "embedding_learning_rate": Uniform(low=1e-3, high=0.05, log=True),
    "l2": Uniform(low=1e-6, high=1e-2, log=True),
}


class Model(Protocol):
    """`build` only stores the config; `fit` learns from history; `predict` gives a logit for every impression."""

    def fit(self, encoded: Encoded, options: FitOptions) -> Fitted: ...

    def predict(self, part: EncodedPart) -> NDArray[np.float32]: ...

    def save(self, folder: Path) -> None:
        """Write all that `load` needs into an existing, empty folder."""
        ...

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote; the model must have been built with the same config."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A module of this package, checked."""

    name: str
    config: type[Any]
    search_space: SearchSpace
    build: Callable[[Any], Model]
    distributed: bool = False  # whether several machines can fit it together
    starts: SearchStarts = ()
    version: int = 0  # to be raised when the same parameters come to make another model: a new study begins


def load_kind(name: str) -> Kind:
    """The kind that pipeline/models/NAME.py declares; ParameterError if there is none."""
    if not str(name).isidentifier() or importlib.util.find_spec(f"pipeline.models.{name}") is None:
        raise ParameterError(f"no model of kind {name!r}; expected a module pipeline/models/{name}.py")
    module = importlib.import_module(f"pipeline.models.{name}")
    if not hasattr(module, "Config"):
        raise ParameterError(f"pipeline/models/{name}.py holds no Config, so it is no model")
    names = {"distributed": "DISTRIBUTED", "starts": "SEARCH_STARTS", "version": "VERSION"}
    optional = {field: getattr(module, name) for field, name in names.items() if hasattr(module, name)}
    return Kind(name, module.Config, module.SEARCH_SPACE, module.build, **optional)


def model_config(params: Path, name: str, tuned: Path | None = None) -> tuple[Kind, Any]:
    """The kind and the parsed config of `models.NAME`, overlaid with the winners of tuning if their file holds any."""
    models = read_yaml(params).get("models")
    if not isinstance(models, dict) or name not in models:
        raise ParameterError(f"{params}: models.{name} is missing; models holds {', '.join(models or ())}")
    values = dict(models[name]) if isinstance(models[name], dict) else {}
    if "kind" not in values:
        raise ParameterError(f"{params}: models.{name}: missing key 'kind'")
    where = f"{params}: models.{name}"
    try:
        kind = load_kind(values.pop("kind"))
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from None
    seeds = values.pop("seeds", 1)
    if type(seeds) is not int or seeds < 1:
        raise ParameterError(f"{where}.seeds: must be a whole number, 1 or more, found {seeds!r}")
    if seeds > 1 and "seed" not in {field.name for field in fields(kind.config)}:
        raise ParameterError(f"{where}.seeds: a model of kind {kind.name} has no seed; every fit of it is the same")
    config = parse(kind.config, values, where)
    if tuned is None:
        return kind, config
    winners = read_yaml(tuned)
    for key, value in winners.items():
        if key in values and values[key] != value:
            log.info("%s.%s: %r is overridden by %s: %r", where, key, values[key], tuned, value)
    return kind, parse(kind.config, {**values, **winners}, f"{where} with {tuned}")


def seeds_of(params: Path, name: str) -> int:
    """How many fits with different seeds, `models.NAME.seeds`, make the model; 1 if it is not said."""
    return int(read_yaml(params)["models"][name].get("seeds", 1))
