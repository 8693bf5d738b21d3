"""LightGBM's data sets from memory-mapped arrays, block by block: only its bins, a byte each, are ever held whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from pipeline.core.progress import bar
from pipeline.schemas.encoded import EncodedPart, Field

_SAMPLED_ROWS = 200_000  # from which the borders of the bins are found; LightGBM's own number
_EXACT = 1 << 24  # integers that float32 holds without loss
_PREDICTED_DISPLAYS = 1 << 14

Floats = NDArray[np.floating[Any]]


class Rows(lgb.Sequence):
    """Rows of an encoded part, or of a range of it, as LightGBM reads them: values (R, F), by range or by index."""

    batch_size = 1 << 13  # a block of a hundred fields fits into a core's cache

    def __init__(self, part: EncodedPart, fields: Sequence[Field], rows: slice | None = None) -> None:
        self._part, self._first = part, rows.start if rows else 0
        self._rows = rows.stop - rows.start if rows else part.rows
        self._shared = [field.per == "display" for field in fields]
        self._arrays = [part.field(field.name) for field in fields]
        self._type = np.float32 if all(field.size <= _EXACT for field in fields) else np.float64

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int | slice | list[int] | NDArray[np.int64]) -> Floats:
        if not isinstance(index, slice):
            rows = np.asarray(index) + self._first
            return self._read(rows.shape, rows, self._part.display_of(rows))
        start, stop = (self._first + at for at in index.indices(len(self))[:2])
        first, last = self._part.display_of(np.array([start, max(start, stop - 1)]))
        borders = np.clip(self._part.offsets[first : last + 2], start, stop)
        within = np.repeat(np.arange(last + 1 - first), np.diff(borders))
        return self._read((stop - start,), slice(start, stop), (slice(first, last + 1), within))

    def _read(self, shape: tuple[int, ...], rows: Any, displays: Any) -> Floats:
        values = np.empty((*shape, len(self._arrays)), dtype=self._type)
        for column, (array, shared) in enumerate(zip(self._arrays, self._shared, strict=True)):
            if not shared:
                values[..., column] = array[rows]
            elif isinstance(displays, tuple):
                values[..., column] = array[displays[0]][displays[1]]
            else:
                values[..., column] = array[displays]
        return values


def binned(
    part: EncodedPart,
    fields: Sequence[Field],
    parameters: dict[str, Any],
    reference: lgb.Dataset | None = None,
    displays: Sequence[slice] | None = None,
) -> lgb.Dataset:
    """Rows of a labelled part, of all displays or of some ranges, in bins: those of `reference`, or such as suit a
    sample of the whole part."""
    displays = part.whole if displays is None else displays
    rows, clicked = part.rows_of(displays), part.array("clicked")
    named = {
        "feature_name": [field.name for field in fields],
        "categorical_feature": [field.name for field in fields if field.kind == "categorical"],
        "params": {**parameters, "feature_pre_filter": False},  # a sample does not tell which fields can be split
    }
    if reference is None:
        reference = lgb.Dataset(Rows(part, fields)[_sample(part.rows, parameters["seed"])], **named).construct()
    return lgb.Dataset(
        [Rows(part, fields, piece) for piece in rows],
        label=np.concatenate([clicked[piece] for piece in rows]).astype(np.float32),
        group=np.diff(part.offsets_of(displays)).astype(np.int32),
        reference=reference,
        **named,
    ).construct()


def _sample(rows: int, seed: int) -> NDArray[np.int64]:
    if rows <= _SAMPLED_ROWS:
        return np.arange(rows)
    return np.unique(np.random.default_rng(seed).integers(0, rows, _SAMPLED_ROWS))


def scores(booster: lgb.Booster, part: EncodedPart, fields: Sequence[Field]) -> NDArray[np.float64]:
    """The sums (N,) of all trees' values."""
    score = np.empty(part.rows)
    for rows, values in _blocks(part, fields):
        score[rows] = booster.predict(values, raw_score=True)
    return score


def leaves(
    booster: lgb.Booster, part: EncodedPart, fields: Sequence[Field]
) -> Iterator[tuple[slice, NDArray[np.integer[Any]]]]:
    """Block by block, rows and the leaf of each tree that each of them falls into, from 0: (R, T)."""
    for rows, values in _blocks(part, fields):
        yield rows, np.asarray(booster.predict(values, pred_leaf=True)).reshape(len(values), -1)


def _blocks(part: EncodedPart, fields: Sequence[Field]) -> Iterator[tuple[slice, Floats]]:
    """All rows, some displays at a time, and their values (R, F)."""
    rows = Rows(part, fields)
    with bar(part.rows, "predicting") as shown:
        for start in range(0, part.displays, _PREDICTED_DISPLAYS):
            first, *_, last = part.offsets[start : start + _PREDICTED_DISPLAYS + 1].tolist()
            yield slice(first, last), rows[first:last]
            shown.update(last - first)
