"""Displays, ids, labels and flags of a part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.engine import Engine
from pipeline.encode.arrays import Arrays, ArrayWriter
from pipeline.encode.reading import read_rows, to_numpy
from pipeline.schemas.impressions import COLD, Part


class _FlagWriter:
    """A flag of displays, which holds if it does so in one of a display's rows."""

    def __init__(self, array: ArrayWriter) -> None:
        self._array = array
        self._last: NDArray[np.bool_] = np.empty(0, bool)  # of the display that the next batch may go on with

    def add(self, flag: NDArray[np.bool_], starts: NDArray[np.int64]) -> None:
        """flag: of each row of a batch. starts: its rows with which displays begin."""
        head = flag[: starts[0]] if len(starts) else flag
        self._last = self._last | head.any()
        if len(starts):
            found = np.logical_or.reduceat(flag, starts)
            self._array.append(np.concatenate([self._last, found[:-1]]))
            self._last = found[-1:]

    def finish(self) -> None:
        self._array.append(self._last)


def write_labels(engine: Engine, path: Path, part: Part, arrays: Arrays) -> dict[str, int]:
    """Write what models need of the impressions of a part; the numbers of its rows and displays."""
    table = engine.table(path)
    counts = engine.one(table.aggregate(rows=table.count(), labels=table.clicked.count()))
    rows, labelled = int(counts["rows"]), counts["labels"] == counts["rows"]
    by_row = {"ad_id": arrays.create(f"{part}/ad_id", np.uint32)}
    if labelled:
        by_row["clicked"] = arrays.create(f"{part}/clicked", np.uint8)
    flags = {
        name: _FlagWriter(arrays.create(f"{part}/{name}", bool))
        for name in ("future", *(COLD if part == "target" else ()))
    }
    display_id, offsets = arrays.create(f"{part}/display_id", np.uint32), arrays.create(f"{part}/offsets", np.int64)
    displays = 0
    for position, batch in read_rows(path, ["first", "display_id", *by_row, *flags], rows):
        starts = starts_of(batch)
        for name, array in by_row.items():
            array.append(to_numpy(batch[name]))
        for name, flag in flags.items():
            flag.add(to_numpy(batch[name]), starts)
        display_id.append(to_numpy(batch["display_id"])[starts])
        offsets.append(position + starts)
        displays += len(starts)
    for flag in flags.values():
        flag.finish()
    offsets.append(np.array([rows]))
    return {"rows": rows, "displays": displays}


def starts_of(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """The rows of a batch with which displays begin."""
    return np.flatnonzero(to_numpy(batch["first"]))
