"""The border between models, blend and submission: display_id, ad_id and score, in the order of the split's target.

The score is a logit (float32) of the click: comparable between models, whatever loss they were trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import atomic_path
from pipeline.metrics import Labelled
from pipeline.schemas.encoded import EncodedPart
from pipeline.schemas.impressions import COLD

SCHEMA = pa.schema([("display_id", pa.uint32()), ("ad_id", pa.uint32()), ("score", pa.float32())])
_CHUNK_DISPLAYS = 1 << 20


def write_predictions(path: Path, part: EncodedPart, score: NDArray[np.float32]) -> None:
    """Write scores (N,) of a target part; ValueError if they do not fit it or are not finite."""
    if score.shape != (part.rows,) or not np.isfinite(score).all():
        raise ValueError(f"expected {part.rows} finite scores, found shape {score.shape}")
    display_id, ad_id = part.array("display_id"), part.array("ad_id")
    with atomic_path(path) as partial, pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
        for start in range(0, part.displays, _CHUNK_DISPLAYS):
            offsets = part.offsets[start : start + _CHUNK_DISPLAYS + 1]
            rows = slice(offsets[0], offsets[-1])
            displays = np.repeat(display_id[start : start + _CHUNK_DISPLAYS], np.diff(offsets))
            columns = (displays, ad_id[rows], score[rows])
            arrays = [_array(kind, column) for kind, column in zip(SCHEMA.types, columns, strict=True)]
            writer.write_table(pa.table(arrays, schema=SCHEMA))


def _array(kind: pa.DataType, column: NDArray[Any]) -> pa.Array:
    """pa.array would load pandas, which takes as long as many a fit on a small world."""
    buffer = pa.py_buffer(np.ascontiguousarray(column, kind.to_pandas_dtype()))
    return pa.Array.from_buffers(kind, len(column), [None, buffer])


def read_scores(path: Path, part: EncodedPart) -> NDArray[np.float32]:
    """The scores (N,) of a predictions file; InputError if it is not about this target."""
    table = pq.read_table(path, columns=["ad_id", "score"])
    if table.num_rows != part.rows or not np.array_equal(table["ad_id"].to_numpy(), part.array("ad_id")):
        raise InputError(
            f"{path}: expected the {part.rows} impressions of {part.folder}, found others; run its stage again"
        )
    return np.asarray(table["score"].to_numpy(), dtype=np.float32)


def labels_of(part: EncodedPart, displays: Sequence[slice] | None = None) -> Labelled:
    """The labels and slices of a labelled part, of all its displays or of some ranges; history has no cold displays."""
    displays = part.whole if displays is None else displays
    rows = part.rows_of(displays)
    names = ("future", *(name for name in COLD if part.has(name)))
    slices: dict[str, Any] = {name: np.asarray(_joined(part.array(name), displays)) for name in names}
    return Labelled(
        clicked=_joined(part.array("clicked"), rows),
        offsets=part.offsets_of(displays),
        display_id=_joined(part.array("display_id"), displays),
        ad_id=_joined(part.array("ad_id"), rows),
        slices=slices,
    )


def _joined(array: NDArray[Any], pieces: Sequence[slice]) -> NDArray[Any]:
    """Some ranges of an array; itself, not a copy, if they are a single one."""
    return array[pieces[0]] if len(pieces) == 1 else np.concatenate([array[piece] for piece in pieces])


def within_display_logits(score: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores that only rank the ads of a display (log-odds between them) as logits: of the softmax over the display."""
    result = np.empty(len(score), dtype=np.float32)
    for start in range(0, len(offsets) - 1, _CHUNK_DISPLAYS):
        borders = offsets[start : start + _CHUNK_DISPLAYS + 1]
        lengths, first = np.diff(borders), borders[0]
        x = np.asarray(score[first : borders[-1]], dtype=np.float64)
        x = np.exp(x - np.repeat(np.maximum.reduceat(x, borders[:-1] - first), lengths))
        rest = np.repeat(np.add.reduceat(x, borders[:-1] - first), lengths) - x
        logit = np.log(np.maximum(x, 1e-30)) - np.log(np.maximum(rest, 1e-30))
        result[first : borders[-1]] = np.clip(logit, -30, 30)
    return result
