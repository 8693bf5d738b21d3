"""Chunks of displays against the whole files, and what is computed within a display."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.collaborative.displays import chunks, gap_to_best_rival
from pipeline.schemas.impressions import PARTS
from pipeline.schemas.raw import DAY_MS


@pytest.mark.parametrize("size", [1, 97, 10_000])
def test_chunks_are_the_files_cut_at_displays(splits: dict[str, Path], views: dict[str, Path], size: int) -> None:
    for part in PARTS:
        rows = pq.read_table(splits["validation"] / f"{part}.parquet")
        beside = pq.read_table(views["validation"] / f"{part}.parquet")
        found = list(chunks(splits["validation"] / f"{part}.parquet", views["validation"] / f"{part}.parquet", size))
        assert [len(c.page) for c in found[:-1]] == [size] * (len(found) - 1)
        assert np.concatenate([c.row for c in found]).tolist() == rows["row"].to_pylist()
        assert (
            np.concatenate([c.display_id[c.display_of_row] for c in found]).tolist() == rows["display_id"].to_pylist()
        )
        shown = rows.filter(rows["first"])
        pages = [-1 if page is None else page for page in shown["document_id"].to_pylist()]
        assert np.concatenate([c.page for c in found]).tolist() == pages
        days = [-1 if time is None else time // DAY_MS for time in shown["timestamp"].to_pylist()]
        assert np.concatenate([c.day for c in found]).tolist() == days
        again = np.concatenate([c.display_id[c.display_of_beside] for c in found])
        assert again.tolist() == beside["display_id"].to_pylist()
        assert np.concatenate([c.beside["delay"] for c in found]).tolist() == beside["delay"].to_pylist()


def test_gap_to_best_rival() -> None:
    nan = np.nan
    score = np.array([3, 1, 2, 5, nan, 4, nan, nan, 1, 1], np.float32)
    offsets = np.array([0, 3, 4, 6, 8, 10])
    expected = [1, -2, -1, 0, nan, 0, nan, nan, 0, 0]
    np.testing.assert_array_equal(gap_to_best_rival(score, offsets), np.array(expected, np.float32))
