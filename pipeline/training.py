"""Fit one model on one split and write what comes of it: the model, its predictions, its metrics."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
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

_SCORES = "scores.npy"


def train(
    kind: Kind,
    config: Any,
    encoded: Encoded,
    options: FitOptions,
    out: Path,
    predictions: Path,
    seeds: int = 1,
) -> NDArray[np.float32] | None:
    """Fit on history and score the target; the folder `out` gets the model and fit.json. Returns the scores.

    Of several seeds, each fit gets a folder of its own in `out`, and the scores are the mean of their logits. A killed
    run goes on within the fit that it was killed in. Where several machines fit a model together, all but the first
    only fit it, and return None.
    Raises, before anything is written, InputError if training shall stop early (options.length is None) on a target
    without labels, and DivergedError if the scores are not finite.
    """
    if options.length is None and not encoded.part("target").labelled:
        raise InputError(f"{encoded.folder}: its target has no labels to stop early by; give the model of validation")
    checkpoint = options.checkpoint or out.with_name(f".{out.name}.fits")
    kept = checkpoint / f"done-{fingerprint(kind, config, encoded, options)}"
    folders = [kept / f"seed_{number}" for number in range(seeds)]
    for number, (of_seed, folder) in enumerate(zip(seeded(config, seeds), folders, strict=True)):
        if options.rank is None and (folder / _SCORES).exists():  # machines that fit together all begin with the first
            log.info("seed %d of %d has been fitted before", number + 1, seeds)
            continue
        own = None if options.checkpoint is None else checkpoint / f"seed_{number}"
        _fit(kind, of_seed, encoded, replace(options, checkpoint=own), folder)
    if options.rank:
        return None
    score = mean_logits([np.load(folder / _SCORES) for folder in folders])
    write_predictions(predictions, encoded.part("target"), score)
    _move(folders, out)
    remove(checkpoint)
    return score


def _fit(kind: Kind, config: Any, encoded: Encoded, options: FitOptions, folder: Path) -> None:
    """Fit one model; `folder` gets it, its fit.json and its scores of the target."""
    model = kind.build(config)
    fitted = model.fit(encoded, options)
    if options.rank:
        return
    score = model.predict(encoded.part("target"))
    if not np.isfinite(score).all():  # a refit measures nothing on its way, so nothing has told yet
        raise DivergedError("scores must be finite; the model has diverged, try a smaller learning rate")
    with atomic_path(folder) as partial:
        partial.mkdir()
        model.save(partial)
        write_json(partial / "fit.json", asdict(fitted))
        np.save(partial / _SCORES, score)


def _move(folders: Sequence[Path], out: Path) -> None:
    """One fit becomes `out`; several become its folders, with fit.json: their mean length and the first one's curve."""
    for folder in folders:
        (folder / _SCORES).unlink()
    with atomic_path(out) as partial:
        if len(folders) == 1:
            shutil.move(folders[0], partial)
            return
        fits = [read_json(folder / "fit.json") for folder in folders]
        partial.mkdir()
        for folder in folders:
            shutil.move(folder, partial / folder.name)
        length = sum(fit["length"] for fit in fits) / len(fits)
        write_json(partial / "fit.json", {"length": length, "curve": fits[0]["curve"]})


def seeded(config: Any, seeds: int) -> list[Any]:
    """The config of each of several fits; of one fit the config itself, which need not have a seed."""
    return [config if seeds == 1 else replace(config, seed=config.seed + number) for number in range(seeds)]


def mean_logits(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """What several fits make of the same impressions together (N,)."""
    return np.asarray(np.sum(scores, axis=0, dtype=np.float64) / len(scores), dtype=np.float32)


def fingerprint(kind: Kind, config: Any, encoded: Encoded, options: FitOptions) -> str:
    """Changes with the data, the config, what the fit leaves out and any code, so that no fit is taken for another."""
    code = (path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    left_out = b"" if options.left_out is None else options.left_out.tobytes()
    what = repr((kind.name, config, options.length, encoded.digest, left_out)).encode()
    return hashlib.sha256(b"\n".join([what, *code])).hexdigest()[:16]


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
