"""Arrays that are stored small and read large, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.core.computed import Computed, buckets, wide

ALL = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
HALVES = np.random.default_rng(0).permutation(ALL[~np.isinf(ALL)])
EDGES = np.float32([-1000, -1, -1e-5, 0, 1e-7, 0.1, 0.5, 0.5, 3, 60_000])


def test_all_halves_are_widened() -> None:
    found, expected = np.asarray(wide(HALVES)), HALVES.astype(np.float32)
    assert found.dtype == np.float32
    known = ~np.isnan(expected)
    assert np.array_equal(np.isnan(found), ~known)
    assert np.array_equal(found[known].view(np.uint32), expected[known].view(np.uint32)), "-0 stays -0"


@pytest.mark.parametrize(
    "index",
    [
        slice(None),
        slice(100, 5000),
        slice(7, 3),
        slice(5000, 100, -7),
        [3, 3, 60_000],
        np.array([[1, 2], [3, 4]]),
        np.arange(len(HALVES)) % 3 == 0,
        5,
        -1,
        np.int64(77),
    ],
)
def test_an_index_gives_what_it_gives_of_an_array(index: Any) -> None:
    numbers = HALVES.astype(np.float32)
    codes = np.where(np.isnan(numbers), 0, 1 + np.searchsorted(EDGES, numbers, side="right")).astype(np.uint8)
    for found, expected in (
        (wide(HALVES), numbers),
        (buckets(numbers, EDGES, np.uint8), codes),
        (buckets(wide(HALVES), EDGES, np.uint8), codes),
    ):
        assert (len(found), found.shape, found.dtype) == (len(expected), expected.shape, expected.dtype)
        assert type(found[index]) is type(expected[index])
        assert found[index].dtype == expected.dtype
        np.testing.assert_array_equal(found[index], expected[index])


def test_an_empty_array_and_one_out_of_bounds() -> None:
    empty = wide(np.empty(0, np.float16))
    assert np.asarray(empty).tolist() == empty[:5].tolist() == []
    with pytest.raises(IndexError):
        empty[0]


def test_conversion_to_another_type() -> None:
    doubled = Computed(np.arange(5, dtype=np.uint8), np.int64, lambda stored, found: np.multiply(stored, 2, out=found))
    assert np.asarray(doubled, np.float64).tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert np.asarray(doubled).dtype == np.int64
