"""What a model thinks of each display of history that it has not learned from: a field for models that read scores.

History's displays are cut into folds; each fold is scored by a fit on the others, the target by the model that learned
from all of history. (Wolpert 1992, "Stacked generalization".)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import check
from pipeline.core.errors import InputError, ParameterError
from pipeline.core.files import atomic_path, remove
from pipeline.core.progress import log
from pipeline.factorization.model import FactorizationModel
from pipeline.metrics import DivergedError, map12, tie_hash
from pipeline.models.base import Kind
from pipeline.schemas.encoded import Encoded, Field, write_scores
from pipeline.schemas.features import HINDSIGHT
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.predictions import labels_of, read_scores
from pipeline.training import fingerprint, mean_logits, seeded

GROUP = "scores"  # of the fields


@dataclass(frozen=True, kw_only=True, slots=True)
class OutOfFoldConfig:
    """The section `out_of_fold` of params.yaml.

    models: whose scores are fields for networks and trees. folds: into how many the displays of history are cut.
    """

    models: tuple[str, ...]
    folds: int = 2

    def __post_init__(self) -> None:
        check(len(self.models) > 0, "models: expected the name of one model or more, found none")
        check(2 <= self.folds <= 127, f"folds: must be from 2 to 127, found {self.folds}")


def out_of_fold(
    name: str,
    kind: Kind,
    config: Any,
    encoded: Encoded,
    options: FitOptions,
    folds: int,
    predictions: Path,
    out: Path,
    seeds: int = 1,
) -> None:
    """Write the field NAME_score, in the folder `out`. options.length: for how long the model is to be trained.

    seeds: how many fits make the scores of a fold, as many as make those of the target: the mean of their logits is
    less noisy than one of them, and those who read the field must find the same noise in both.
    Raises InputError if history has fewer displays than folds, ParameterError if the model cannot leave displays out.
    """
    model = able(kind, config)
    history = encoded.part("history")
    if history.displays < folds:
        raise InputError(f"{history.folder}: expected at least {folds} displays, found {history.displays}")
    display_id = np.asarray(history.array("display_id"))
    fold = (tie_hash(display_id, np.zeros_like(display_id)) % np.uint64(folds)).astype(np.int8)
    fit = replace(options, left_out=fold)
    score = mean_logits([_scores(kind, c, encoded, fit) for c in seeded(config, seeds)])
    log.info("%s: out-of-fold MAP@12 %.5f of history", name, map12(score, labels_of(history)))
    target = read_scores(predictions, encoded.part("target"))
    field = _field(name, model.reads(encoded), score)
    write_scores(out, encoded, field, {"history": score, "target": target})
    if options.checkpoint is not None:
        remove(options.checkpoint)


def able(kind: Kind, config: Any) -> FactorizationModel:
    """The model, unfitted; ParameterError if its kind cannot leave displays out."""
    model = kind.build(config)
    if not isinstance(model, FactorizationModel):
        raise ParameterError(f"a model of kind {kind.name} learns from all of history; expected lr, fm or ffm")
    return model


def _scores(kind: Kind, config: Any, encoded: Encoded, options: FitOptions) -> NDArray[np.float32]:
    """Scores (N,) of history by fits without options.left_out; kept for a second run of a killed one."""
    name = fingerprint(kind, config, encoded, options)
    kept = options.checkpoint / f"{name}.npy" if options.checkpoint else None
    if kept is not None and kept.exists():
        return np.asarray(np.load(kept))
    model = kind.build(config)
    inner = options.checkpoint / name if options.checkpoint else None
    model.fit(encoded, replace(options, checkpoint=inner))
    score = model.predict(encoded.part("history"))
    if not np.isfinite(score).all():
        raise DivergedError("scores must be finite; the model has diverged, try a smaller learning rate")
    if kept is not None:
        with atomic_path(kept) as partial, partial.open("wb") as file:
            np.save(file, score)
    return score


def score_name(model: str) -> str:
    return f"{model}_score"


def _field(name: str, read: Sequence[Field], score: NDArray[np.float32]) -> Field:
    """It knows of the future what its model reads of it."""
    return Field(
        name=score_name(name),
        group=GROUP,
        kind="numeric",
        per="impression",
        meaning=f"logit of {name}, which has not learned from the display",
        scope="out-of-fold-future" if any(field.scope in HINDSIGHT for field in read) else "out-of-fold",
        mean=float(score.mean()),
        scale=max(float(score.std()), 1e-6),
    )
