"""Chunks of displays against the whole files, and what is computed within a display."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.features.displays import Bags, Chunk, Columns, Walk, chunks, gap_to_best_rival, write_walk
from pipeline.schemas.features import MULTI_TYPE, Column
from pipeline.schemas.impressions import PARTS
from pipeline.schemas.raw import DAY_MS


@pytest.mark.parametrize("size", [1, 97, 10_000])
def test_chunks_are_the_files_cut_at_displays(splits: dict[str, Path], views: dict[str, Path], size: int) -> None:
    for part in PARTS:
        rows = pq.read_table(splits["validation"] / f"{part}.parquet")
        beside = pq.read_table(views["validation"] / f"{part}.parquet")
        found = list(
            chunks(
                splits["validation"] / f"{part}.parquet",
                views["validation"] / f"{part}.parquet",
                ("ad_id", "timestamp"),
                ("country",),
                size,
            )
        )
        assert [len(c.page) for c in found[:-1]] == [size] * (len(found) - 1)
        assert np.concatenate([c.row for c in found]).tolist() == rows["row"].to_pylist()
        assert (
            np.concatenate([c.display_id[c.display_of_row] for c in found]).tolist() == rows["display_id"].to_pylist()
        )
        shown = rows.filter(rows["first"])
        assert np.concatenate([c.more["ad_id"] for c in found]).tolist() == rows["ad_id"].to_pylist()
        assert [name for c in found for name in c.texts["country"].to_pylist()] == shown["country"].to_pylist()
        pages = [-1 if page is None else page for page in shown["document_id"].to_pylist()]
        assert np.concatenate([c.page for c in found]).tolist() == pages
        days = [-1 if time is None else time // DAY_MS for time in shown["timestamp"].to_pylist()]
        assert np.concatenate([c.day for c in found]).tolist() == days
        again = np.concatenate([c.display_id[c.display_of_beside] for c in found])
        assert again.tolist() == beside["display_id"].to_pylist()
        assert np.concatenate([c.beside["delay"] for c in found]).tolist() == beside["delay"].to_pylist()


@pytest.mark.parametrize("threads", [1, 3])
def test_chunks_that_are_computed_at_once_are_written_in_order(
    splits: dict[str, Path], views: dict[str, Path], tmp_path: Path, threads: int
) -> None:
    began: list[int] = []

    def compute(chunk: Chunk) -> Columns:
        began.append(len(began))
        time.sleep(0.01 / len(began))  # the first takes longest
        one, display = np.ones(len(chunk.row), np.float32), chunk.display_id.astype(np.uint32)
        return {
            "twice": np.where(chunk.row == 3, np.nan, 2 * chunk.row).astype(np.float32),
            "of_row": Bags(np.arange(len(one) + 1), chunk.more["ad_id"].astype(np.uint32), one),
            "of_display": Bags(
                np.append(0, np.cumsum(display % 2)), display[display % 2 == 1], one[: int((display % 2).sum())]
            ),
        }

    split, path = splits["validation"], tmp_path / "columns.parquet"
    walk = Walk(compute, columns=("ad_id",), beside=views["validation"] / "target.parquet", size=37)
    kinds = {"twice": "float32", "of_row": MULTI_TYPE, "of_display": MULTI_TYPE}
    columns = tuple(Column(name=name, kind="multi", dtype=kind, meaning="") for name, kind in kinds.items())
    write_walk(walk, split / "target.parquet", Path("elsewhere"), columns, path, threads)
    impressions, found = pq.read_table(split / "target.parquet"), pq.read_table(path)
    assert len(began) > 5
    assert found["row"].equals(impressions["row"])
    assert found["first"].equals(impressions["first"])
    rows = range(impressions.num_rows)
    assert found["twice"].to_pylist() == [None if row == 3 else 2 * row for row in rows]
    assert found["of_row"].to_pylist() == [[{"id": ad, "weight": 1}] for ad in impressions["ad_id"].to_pylist()]
    shown = zip(impressions["first"].to_pylist(), impressions["display_id"].to_pylist(), strict=True)
    expected = [[{"id": display, "weight": 1}] if first and display % 2 else None for first, display in shown]
    assert found["of_display"].to_pylist() == expected


def test_a_part_without_rows_has_its_columns(splits: dict[str, Path], views: dict[str, Path], tmp_path: Path) -> None:
    impressions = tmp_path / "impressions.parquet"
    pq.write_table(pq.read_schema(splits["validation"] / "target.parquet").empty_table(), impressions)
    columns = (Column(name="number", kind="numeric", dtype="float32", meaning=""),)
    beside = views["validation"] / "target.parquet"
    write_walk(Walk(lambda chunk: {}), impressions, beside, columns, tmp_path / "columns.parquet")
    found = pq.read_table(tmp_path / "columns.parquet")
    assert (found.column_names, found.num_rows) == (["row", "first", "number"], 0)


def test_gap_to_best_rival() -> None:
    nan = np.nan
    score = np.array([3, 1, 2, 5, nan, 4, nan, nan, 1, 1], np.float32)
    offsets = np.array([0, 3, 4, 6, 8, 10])
    expected = [1, -2, -1, 0, nan, 0, nan, nan, 0, 0]
    np.testing.assert_array_equal(gap_to_best_rival(score, offsets), np.array(expected, np.float32))
