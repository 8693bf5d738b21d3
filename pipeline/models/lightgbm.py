"""Gradient-boosted trees: Ke et al. 2017, "LightGBM". Displays are the query groups of the ranking objectives."""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from pipeline.core import stopping
from pipeline.core.config import check
from pipeline.core.errors import ParameterError
from pipeline.core.files import read_json, write_json
from pipeline.core.progress import log
from pipeline.metrics import quality
from pipeline.models.base import Choice, Model, SearchSpace, SearchStarts, Uniform
from pipeline.schemas.encoded import Encoded, EncodedPart, Field, drawn
from pipeline.schemas.features import Scope
from pipeline.schemas.fitting import FitOptions, Fitted
from pipeline.schemas.predictions import labels_of, within_display_logits
from pipeline.trees import boosting, dataset, objectives
from pipeline.trees.boosting import Boosting, Schedule
from pipeline.trees.dataset import binned, scores
from pipeline.trees.machines import joined, share
from pipeline.trees.objectives import OBJECTIVES

DISTRIBUTED = True
MOST_LEAVES = 131072  # of a tree of LightGBM


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """groups, fields: what the trees may read, whole feature groups and single encoded fields; everything if both are
    empty; scopes: of these only what has one of these scopes (schemas.features), all if empty. Of whole groups they
    take the numeric fields, and the categorical ones of at most `max_categories` codes; of a larger one they should get
    the click rates.

    displays: of history from which a machine grows trees, at most: a few thousand leaves know as much after millions of
    displays as after tens of millions, while memory (a byte a field and row) and time would grow with them.
    rounds: trees at most. evaluate_every: rounds between two measurements; patience: how many measurements in
    a row may bring no gain before training stops. segment: rounds after which LightGBM's random numbers start anew, so
    that a killed run can go on there: it does from the last segment that ended checkpoint_minutes after another.
    objective: listwise is the softmax over a display (trees.objectives); the others are LightGBM's, as all the rest is.
    """

    groups: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ()
    max_categories: int = 64
    displays: int = 2_000_000
    objective: Literal["listwise", "binary", "lambdarank", "rank_xendcg"] = "listwise"
    rounds: int = 1000
    evaluate_every: int = 10
    patience: int = 10
    segment: int = 20
    checkpoint_minutes: float = 10.0
    learning_rate: float = 0.05
    num_leaves: int = 63
    min_data_in_leaf: int = 50
    feature_fraction: float = 0.8
    bagging_fraction: float = 0.8
    lambda_l2: float = 1.0
    max_bin: int = 255
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("displays", "rounds", "evaluate_every", "patience", "segment", "min_data_in_leaf"):
            check(getattr(self, name) >= 1, f"{name}: must be 1 or more, found {getattr(self, name)}")
        for name in ("feature_fraction", "bagging_fraction"):
            check(0 < getattr(self, name) <= 1, f"{name}: must be above 0 and at most 1, found {getattr(self, name)}")
        for name in ("checkpoint_minutes", "seed", "lambda_l2", "max_categories"):
            check(getattr(self, name) >= 0, f"{name}: must be 0 or more, found {getattr(self, name)}")
        check(self.learning_rate > 0, f"learning_rate: must be above 0, found {self.learning_rate}")
        check(
            2 <= self.num_leaves <= MOST_LEAVES, f"num_leaves: must be from 2 to {MOST_LEAVES}, found {self.num_leaves}"
        )
        check(self.max_bin >= 2, f"max_bin: must be 2 or more, found {self.max_bin}")


SEARCH_SPACE: SearchSpace = {
    "objective": Choice(values=("listwise", "binary", "lambdarank", "rank_xendcg")),
    "num_leaves": Uniform(low=7, high=255, log=True, whole=True),
    "min_data_in_leaf": Uniform(low=10, high=500, log=True, whole=True),
    "feature_fraction": Uniform(low=0.3, high=1.0),
    "lambda_l2": Uniform(low=1e-2, high=1e2, log=True),
}
SEARCH_STARTS: SearchStarts = (
    {"num_leaves": 9, "min_data_in_leaf": 100, "feature_fraction": 0.3, "lambda_l2": 10.0},
    {"num_leaves": 15, "feature_fraction": 0.4},
    {"num_leaves": 15, "feature_fraction": 0.4, "objective": "binary"},
    {"num_leaves": 31, "min_data_in_leaf": 200, "feature_fraction": 0.4, "lambda_l2": 20.0},
)


class GradientBoostedTrees:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.fields: list[Field] = []
        self.booster: lgb.Booster | None = None

    def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
        self.fields = self._chosen(encoded)
        checkpoint = options.checkpoint
        if checkpoint is not None:
            checkpoint = checkpoint / self._fingerprint(encoded, options.length)
        if options.rank is not None:
            checkpoint = None  # machines that are killed at different moments have no round in common to go on from
        with joined(options.runtime.machines, options.rank) as shared:
            trainer = self._trainer(encoded, options, self._parameters(options.runtime.cores) | shared)
            self.booster, state = trainer.fit(checkpoint), trainer.progress
        if options.length is not None:
            return Fitted(length=float(state.round), curve=[])
        fitted = Fitted(length=state.best_length, curve=state.curve)
        log.info("%d trees, MAP@12 %.5f", fitted.length, fitted.map12)
        return fitted

    def _trainer(self, encoded: Encoded, options: FitOptions, parameters: dict[str, Any]) -> Boosting:
        """Of several machines each learns from its share of history, and measures all of the target, as all must stop
        at the same round."""
        history, objective = encoded.part("history"), OBJECTIVES.get(self.config.objective)
        own = share(history.displays, len(options.runtime.machines), options.rank)
        train = binned(history, self.fields, parameters, displays=drawn(own, self.config.displays, self.config.seed))
        if options.length is not None:
            return Boosting(parameters, self._schedule(max(1, round(options.length))), train, objective=objective)
        target = encoded.part("target")
        labels = labels_of(target, target.measured)
        measured = binned(target, self.fields, parameters, train, target.measured)
        schedule, measure = self._schedule(self.config.rounds), lambda score: quality(score, labels)
        return Boosting(parameters, schedule, train, measured, measure, options.report, objective)

    def predict(self, part: EncodedPart) -> NDArray[np.float32]:
        if self.booster is None:
            raise ValueError("fit or load the model before predicting")
        return self._logits(scores(self.booster, part, self.fields), part)

    def save(self, folder: Path) -> None:
        if self.booster is None:
            raise ValueError("fit the model before saving it")
        write_json(folder / "fields.json", [asdict(field) for field in self.fields])
        self.booster.save_model(folder / "trees.txt")

    def load(self, folder: Path) -> None:
        self.fields = [Field(**values) for values in read_json(folder / "fields.json")]
        self.booster = lgb.Booster(model_file=folder / "trees.txt")

    def _chosen(self, encoded: Encoded) -> list[Field]:
        multi = [name for name in self.config.fields if name in encoded.fields and encoded.fields[name].kind == "multi"]
        if multi:
            raise ParameterError(f"fields {multi}: have several values a row, which trees do not read; leave them out")
        chosen = [
            field
            for field in encoded.select(self.config.groups, self.config.fields, self.config.scopes)
            if field.kind == "numeric"
            or field.name in self.config.fields
            or (field.kind == "categorical" and field.twin is None and field.size <= self.config.max_categories)
        ]
        if not chosen:
            raise ParameterError(f"groups {list(self.config.groups)}: hold no field that trees read; name `fields`")
        return chosen

    def _parameters(self, cores: int) -> dict[str, Any]:
        c = self.config
        return {
            "objective": "none" if c.objective in OBJECTIVES else c.objective,
            "metric": "None",
            "learning_rate": c.learning_rate,
            "num_leaves": c.num_leaves,
            "min_data_in_leaf": c.min_data_in_leaf,
            "feature_fraction": c.feature_fraction,
            "bagging_fraction": c.bagging_fraction,
            "bagging_freq": 1 if c.bagging_fraction < 1 else 0,
            "lambda_l2": c.lambda_l2,
            "max_bin": c.max_bin,
            "lambdarank_truncation_level": 12,
            "seed": c.seed,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": cores,
            "verbosity": -1,
        }

    def _schedule(self, rounds: int) -> Schedule:
        c = self.config
        return Schedule(
            rounds=rounds,
            segment=c.segment,
            evaluate_every=c.evaluate_every,
            patience=c.patience,
            checkpoint_minutes=c.checkpoint_minutes,
        )

    def _fingerprint(self, encoded: Encoded, length: float | None) -> str:
        """Changes with the data, the config and the code, so that a run never goes on from what no longer fits."""
        text = [repr((self.config, length, encoded.digest, [f.name for f in self.fields], lgb.__version__))]
        modules = (sys.modules[__name__], boosting, dataset, objectives, stopping)
        text += [inspect.getsource(module) for module in modules]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]

    def _logits(self, score: NDArray[np.float64], part: EncodedPart) -> NDArray[np.float32]:
        """A binary objective gives logits; a ranking one only orders the ads of a display."""
        if self.config.objective == "binary":
            return score.astype(np.float32)
        return within_display_logits(score, part.offsets)


def build(config: Config) -> Model:
    return GradientBoostedTrees(config)
