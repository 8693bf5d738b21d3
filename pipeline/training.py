"""Fit one model on one split and write what comes of it: the model, its predictions, its metrics."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import atomic_path, read_json, remove, write_json
from pipeline.core.progress import log
from pipeline.metrics import DivergedError, evaluate
from pipeline.models.base import Kind
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.predictions import labels_of, write_predictions


def train(
    kind: Kind,
    config: Any,
    encoded: Encoded,
    options: FitOptions,
    out: Path,
    predictions: Path,
) -> NDArray[np.float32] | None:
    """Fit on history and score the target; the folder `out` gets the model and fit.json. Returns the scores.

    Where several machines fit a model together, all but the first only fit it, and return None.
    Raises, before anything is written, InputError if training shall stop early (options.length is None) on a target
    without labels, and DivergedError if the scores are not finite.
    """
    if options.length is None and not encoded.part("target").labelled:
        raise InputError(f"{encoded.folder}: its target has no labels to stop early by; give the model of validation")
    model = kind.build(config)
    fitted = model.fit(encoded, options)
    if options.rank:
        return None
    target = encoded.part("target")
    score = model.predict(target)
    if not np.isfinite(score).all():  # a refit measures nothing on its way, so nothing has told yet
        raise DivergedError("scores must be finite; the model has diverged, try a smaller learning rate")
    with atomic_path(out) as partial:
        partial.mkdir()
        model.save(partial)
        write_json(partial / "fit.json", asdict(fitted))
    write_predictions(predictions, target, score)
    if options.checkpoint is not None:
        remove(options.checkpoint)
    return score


def trained_length(model: Path) -> float:
    """For how many epochs or rounds the model in a folder was trained."""
    return float(read_json(model / "fit.json")["length"])


def write_metrics(name: str, score: NDArray[np.float32], encoded: Encoded, metrics: Path, slices: Path) -> None:
    """The headline figures for `dvc metrics`, and the figures of each slice for plots and the report."""
    rows = evaluate(score, labels_of(encoded.part("target")))
    by_slice = {row["slice"]: row for row in rows}
    headline = {key: _rounded(rows[0][key]) for key in ("map12", "auc", "logloss")}
    headline |= {f"map12_{p}": _rounded(by_slice[p]["map12"]) for p in ("present", "future") if p in by_slice}
    write_json(metrics, headline)
    write_json(slices, [{"model": name, **{k: _rounded(v) for k, v in row.items()}} for row in rows])
    log.info(
        "%s: validation MAP@12 %.5f, AUC %.5f, log loss %.5f", name, *(rows[0][k] for k in ("map12", "auc", "logloss"))
    )


def _rounded(value: Any) -> Any:
    """Six decimals are enough to read and few enough to compare; a slice of one class has no AUC, and JSON no NaN."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else round(value, 6)
