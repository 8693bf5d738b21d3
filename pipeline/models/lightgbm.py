"""Gradient-boosted trees: Ke et al. 2017, "LightGBM". Displays are the query groups of the ranking objectives.

The data set is built from memory-mapped columns, chunk by chunk: only LightGBM's own bins are ever held whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import check
from pipeline.core.errors import ParameterError
from pipeline.core.files import read_json, write_json
from pipeline.core.progress import bar, log
from pipeline.metrics import map12
from pipeline.models.base import Choice, Model, SearchSpace, Uniform
from pipeline.schemas.encoded import Encoded, EncodedPart, Field
from pipeline.schemas.features import Scope
from pipeline.schemas.fitting import FitOptions, Fitted
from pipeline.schemas.predictions import labels_of, within_display_logits

_CHUNK_DISPLAYS = 1 << 17


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """groups, fields: what the trees may read, whole feature groups and single encoded fields; everything if both are
    empty; scopes: of these only what has one of these scopes (schemas.features), all if empty. Of whole groups they
    take the numeric fields, and the categorical ones of at most `max_categories` codes; of a larger one they should get
    the click rates.

    rounds: trees at most. evaluate_every: rounds between two measurements of MAP@12; patience: how many measurements in
    a row may bring no gain before training stops. The rest is LightGBM's own.
    """

    groups: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ()
    max_categories: int = 64
    objective: Literal["binary", "lambdarank", "rank_xendcg"] = "lambdarank"
    rounds: int = 1000
    evaluate_every: int = 10
    patience: int = 10
    learning_rate: float = 0.05
    num_leaves: int = 63
    min_data_in_leaf: int = 50
    feature_fraction: float = 0.8
    bagging_fraction: float = 0.8
    lambda_l2: float = 1.0
    max_bin: int = 255
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("rounds", "evaluate_every", "patience", "min_data_in_leaf"):
            check(getattr(self, name) >= 1, f"{name}: must be 1 or more, found {getattr(self, name)}")
        for name in ("feature_fraction", "bagging_fraction"):
            check(0 < getattr(self, name) <= 1, f"{name}: must be above 0 and at most 1, found {getattr(self, name)}")
        check(self.learning_rate > 0, f"learning_rate: must be above 0, found {self.learning_rate}")
        check(self.num_leaves >= 2, f"num_leaves: must be 2 or more, found {self.num_leaves}")


SEARCH_SPACE: SearchSpace = {
    "objective": Choice(values=("lambdarank", "rank_xendcg", "binary")),
    "num_leaves": Uniform(low=7, high=255, log=True, whole=True),
    "min_data_in_leaf": Uniform(low=10, high=500, log=True, whole=True),
    "feature_fraction": Uniform(low=0.3, high=1.0),
    "lambda_l2": Uniform(low=1e-2, high=1e2, log=True),
}


class _Columns(lgb.Sequence):
    """Rows of an encoded part as LightGBM asks for them: one by index (to find bins), or a range (to fill them)."""

    batch_size = 1 << 16

    def __init__(self, part: EncodedPart, fields: Sequence[Field]) -> None:
        self._part = part
        self._by_display = [field.per == "display" for field in fields]
        self._arrays = [part.field(field.name) for field in fields]

    def __len__(self) -> int:
        return self._part.rows

    def __getitem__(self, index: int | slice | list[int]) -> NDArray[np.float64]:
        rows = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
        displays = self._part.display_of(rows)
        of = zip(self._arrays, self._by_display, strict=True)
        return np.stack([array[displays if shared else rows] for array, shared in of], axis=-1).astype(np.float64)


class GradientBoostedTrees:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.fields: list[Field] = []
        self.booster: lgb.Booster | None = None

    def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
        fields = self.fields = self._chosen(encoded)
        history, target = encoded.part("history"), encoded.part("target")
        parameters = self._parameters(options.runtime.cores)
        train = self._dataset(history, fields, parameters)
        rounds = self.config.rounds if options.length is None else max(1, round(options.length))
        if options.length is not None:
            with bar(rounds, "training", "tree") as shown:
                self.booster = lgb.train(parameters, train, rounds, callbacks=[lambda env: shown.update(1)])
            return Fitted(length=float(rounds), curve=[])
        watch = _EarlyStopping(self.config, target, options)
        with bar(rounds, "training", "tree") as shown:
            self.booster = lgb.train(
                parameters,
                train,
                rounds,
                valid_sets=[self._dataset(target, fields, parameters, train)],
                feval=watch.measure,
                callbacks=[lambda env: shown.update(1), watch],
            )
        self.booster = lgb.Booster(model_str=self.booster.model_to_string(num_iteration=watch.best_round))
        log.info("%d trees, MAP@12 %.5f", watch.best_round, watch.best)
        return Fitted(length=float(watch.best_round), curve=watch.curve)

    def predict(self, part: EncodedPart) -> NDArray[np.float32]:
        if self.booster is None:
            raise ValueError("fit or load the model before predicting")
        columns = _Columns(part, self.fields)
        score = np.empty(part.rows)
        with bar(part.rows, "predicting") as shown:
            for start in range(0, part.displays, _CHUNK_DISPLAYS):
                first, *_, last = part.offsets[start : start + _CHUNK_DISPLAYS + 1]
                score[first:last] = self.booster.predict(columns[int(first) : int(last)], raw_score=True)
                shown.update(int(last - first))
        return self._logits(score, part)

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
            "objective": c.objective,
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

    def _dataset(
        self,
        part: EncodedPart,
        fields: Sequence[Field],
        parameters: dict[str, Any],
        reference: lgb.Dataset | None = None,
    ) -> lgb.Dataset:
        return lgb.Dataset(
            [_Columns(part, fields)],
            label=np.asarray(part.array("clicked"), dtype=np.float32),
            group=np.diff(part.offsets).astype(np.int32),
            feature_name=[field.name for field in fields],
            categorical_feature=[field.name for field in fields if field.kind == "categorical"],
            reference=reference,
            params=parameters,
        ).construct()

    def _logits(self, score: NDArray[np.float64], part: EncodedPart) -> NDArray[np.float32]:
        """A binary objective gives logits; a ranking one only orders the ads of a display."""
        if self.config.objective == "binary":
            return score.astype(np.float32)
        return within_display_logits(score, part.offsets)


class _EarlyStopping:
    """Measures MAP@12 every few rounds, remembers the best, and stops when it has not risen for long enough."""

    def __init__(self, config: Config, target: EncodedPart, options: FitOptions) -> None:
        self.every, self.last, self.patience, self.report = (
            config.evaluate_every,
            config.rounds,
            config.patience,
            options.report,
        )
        self.labels = labels_of(target)
        self.best, self.best_round, self.stale, self.round = -1.0, 1, 0, 0
        self.curve: list[dict[str, float]] = []

    def measure(self, score: NDArray[np.float64], _: lgb.Dataset) -> tuple[str, float, bool]:
        """LightGBM asks after every round; between two measurements the last one is repeated."""
        self.round += 1
        if self._is_measured():
            value = map12(score, self.labels)
            self.curve.append({"step": float(self.round), "map12": value})
            self.stale += 1
            if value > self.best:
                self.best, self.best_round, self.stale = value, self.round, 0
        return "map12", self.curve[-1]["map12"], True

    def _is_measured(self) -> bool:
        return self.round % self.every == 0 or self.round in (1, self.last)

    def __call__(self, env: Any) -> None:
        """The callback of each round, which follows its measurement."""
        if self._is_measured():
            self.report(len(self.curve), self.curve[-1]["map12"])
            if self.stale >= self.patience:
                raise lgb.callback.EarlyStopException(env.iteration, [("target", "map12", self.best, True)])


def build(config: Config) -> Model:
    return GradientBoostedTrees(config)
