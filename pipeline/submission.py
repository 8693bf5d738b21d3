"""The file that Kaggle takes: one line for each display of clicks_test, its ads from the likeliest to the least."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import InputError
from pipeline.core.files import atomic_path
from pipeline.core.progress import bar
from pipeline.metrics import CUTOFF, tie_hash

HEADER = b"display_id,ad_id\n"
_BATCH_DISPLAYS = 1 << 18


def write_submission(predictions: Path, clicks_test: Path, out: Path) -> int:
    """Write the CSV and, beside it, the same gzipped, each whole or not at all; returns the number of displays.

    Both inputs are sorted by display. Raises InputError unless the predictions are about exactly the impressions of
    clicks_test, each scored once with a finite number.
    """
    scored = pq.read_table(predictions, columns=["display_id", "ad_id", "score"])
    expected = pq.read_table(clicks_test, columns=["display_id", "ad_id"])
    _check(scored, expected, f"{predictions}: expected the impressions of {clicks_test}")
    display_id = expected["display_id"].to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], display_id[1:] != display_id[:-1]]))
    zipped = out.with_name(f"{out.name}.gz")
    with (
        atomic_path(out) as partial,
        atomic_path(zipped) as partial_zipped,
        partial.open("wb") as file,
        partial_zipped.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=6) as gzipped,
        bar(len(starts), out.name, "display") as shown,
    ):
        for sink in (file, gzipped):
            sink.write(HEADER)
        for first in range(0, len(starts), _BATCH_DISPLAYS):
            last = starts[first + _BATCH_DISPLAYS] if first + _BATCH_DISPLAYS < len(starts) else len(display_id)
            lines = _lines(scored.slice(starts[first], last - starts[first]))
            for sink in (file, gzipped):
                sink.write(lines)
            shown.update(_BATCH_DISPLAYS)
    return len(starts)


def _check(scored: pa.Table, expected: pa.Table, opening: str) -> None:
    if scored.num_rows != expected.num_rows:
        raise InputError(f"{opening}, {expected.num_rows} rows; found {scored.num_rows}; run its stage again")
    for column in ("display_id", "ad_id"):
        differ = scored[column].to_numpy() != expected[column].to_numpy()
        if differ.any():
            row = int(differ.argmax())
            found = [table[column][row].as_py() for table in (expected, scored)]
            raise InputError(f"{opening}; in row {row} {column} is {found[1]} where {found[0]} was expected")
    if not np.isfinite(scored["score"].to_numpy()).all():
        raise InputError(f"{opening} with finite scores; found some that are not")


def _lines(table: pa.Table) -> bytes:
    """CSV lines of whole displays. Ties are broken by a hash, at most 12 ads are named."""
    display_id, ad_id = table["display_id"].to_numpy(), table["ad_id"].to_numpy()
    order = np.lexsort((tie_hash(display_id, ad_id), -table["score"].to_numpy(), display_id))
    starts = np.flatnonzero(np.concatenate([[True], display_id[1:] != display_id[:-1]]))
    lengths = np.diff(np.append(starts, len(display_id)))
    position = np.arange(len(display_id)) - np.repeat(starts, lengths)
    kept = order[position < CUTOFF]
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, CUTOFF))]).astype(np.int32)
    ads = pa.ListArray.from_arrays(pa.array(offsets), pc.cast(pa.array(ad_id[kept]), pa.string()))
    lines = pc.binary_join_element_wise(
        pc.cast(pa.array(display_id[starts]), pa.string()), pc.binary_join(ads, " "), ","
    )
    return "\n".join([*lines.to_pylist(), ""]).encode()
