"""Writes columns of features as what models read: codes, bags of codes, numbers and the edges of their buckets."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.encode.arrays import LARGEST_HALF, Arrays
from pipeline.encode.loops import largest, scale_bags
from pipeline.encode.reading import to_numpy
from pipeline.encode.vocabulary import Codes
from pipeline.schemas.encoded import Field, twin_name

_SAMPLE = 1 << 18  # rows of history: they tell the share of values below a quantile to a thousandth
_TOLD_APART, _SHARE = 256, 0.95  # quantiles, about the bins that trees make of a number, and how many must remain


class Writer(Protocol):
    """Appends a column, batch by batch."""

    def add(self, column: pa.Array) -> None:
        """Append a batch of the column."""


class CategoricalWriter:
    """The codes of a categorical field."""

    def __init__(self, arrays: Arrays, name: str, codes: Codes) -> None:
        self._codes, self._array = codes, arrays.create(name, codes.dtype)

    def add(self, column: pa.Array) -> None:
        self._array.append(self._codes.of_column(column))


class BagWriter:
    """Lists of {id, weight} as offsets, codes and weights; the weights of a bag are scaled to sum to 1."""

    def __init__(self, arrays: Arrays, name: str, codes: Codes) -> None:
        self._name, self._codes = name, codes
        self._offsets = arrays.create(f"{name}.offsets", np.uint32)
        self._ids = arrays.create(f"{name}.ids", codes.dtype)
        self._weights = arrays.create(f"{name}.weights", np.float16)
        self._offsets.append(np.zeros(1, np.uint32))
        self._total = 0

    def add(self, column: pa.Array) -> None:
        """Append the lists of a batch; null is an empty bag. ValueError if offsets of 32 bits do not reach its end."""
        lengths = to_numpy(column.value_lengths().fill_null(0))
        values = column.flatten()
        weights = to_numpy(values.field("weight"))
        scaled = np.empty_like(weights)
        scale_bags(lengths, weights, scaled)
        if self._total + len(weights) >= 1 << 32:
            raise ValueError(f"{self._name}: more than {(1 << 32) - 1} ids in all lists; shorten its lists")
        self._ids.append(self._codes.of_ids(to_numpy(values.field("id"))))
        self._weights.append(scaled)
        self._offsets.append(self._total + np.cumsum(lengths, dtype=np.int64))
        self._total += len(weights)


class NumberWriter:
    """A numeric field; null is NaN. largest: of all its numbers, without their signs."""

    def __init__(self, arrays: Arrays, name: str) -> None:
        self.largest, self._array = 0.0, arrays.create(name, np.float32)

    def add(self, column: pa.Array) -> None:
        """Append a batch."""
        values = np.asarray(to_numpy(column), np.float32)
        self.largest = max(self.largest, largest(values))
        self._array.append(values)


class Sample:
    """Every so many rows of a numeric column: enough to tell its moments and quantiles."""

    def __init__(self, rows: int) -> None:
        self._step = max(1, -(-rows // _SAMPLE))
        self._pieces: list[NDArray[np.float32]] = []

    def add(self, position: int, column: pa.Array) -> None:
        """position: of the column's first row in its part."""
        self._pieces.append(to_numpy(column)[-position % self._step :: self._step].astype(np.float32))

    def known(self) -> NDArray[np.float32]:
        """The values but for NaN, in ascending order."""
        values = np.concatenate(self._pieces) if self._pieces else np.empty(0, np.float32)
        return np.sort(values[~np.isnan(values)])


def fits_half(sample: NDArray[np.float32], most: float) -> bool:
    """Whether float16 loses nothing of a numeric field that a model could use: it reaches `most`, the largest number of
    the whole field, and tells the quantiles of an ordered sample apart."""
    if most > LARGEST_HALF or not len(sample):
        return most <= LARGEST_HALF
    quantiles = np.unique(_quantiles(sample, np.linspace(0, 1, _TOLD_APART + 1)[1:-1]))
    return len(np.unique(quantiles.astype(np.float16))) >= _SHARE * len(quantiles)


def describe(number: Field, sample: NDArray[np.float32], buckets: int) -> tuple[Field, Field, NDArray[np.float32]]:
    """A numeric field with mean and scale; its categorical twin by quantiles: 0 unknown, then 1, 2, ...; the edges.

    sample: of the known values, as they are stored, in ascending order.
    """
    edges = np.empty(0, np.float32)
    if len(sample):
        values = sample.astype(np.float64)
        mean, scale = float(values.mean()), float(values.std())
        number = replace(number, mean=mean, scale=scale if scale > 1e-6 else 1.0)
        edges = np.unique(_quantiles(sample, np.linspace(0, 1, buckets + 1)[1:-1]))
    twin = replace(
        number,
        name=twin_name(number.name),
        kind="categorical",
        size=len(edges) + 2,
        twin=number.name,
        mean=0.0,
        scale=1.0,
    )
    return number, twin, edges


def _quantiles(ordered: NDArray[np.float32], shares: NDArray[np.float64]) -> NDArray[np.float32]:
    """np.quantile, interpolated in float64."""
    places = shares * (len(ordered) - 1)
    below = places.astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    low, high = ordered[below].astype(np.float64), ordered[above].astype(np.float64)
    return (low + (high - low) * (places - below)).astype(np.float32)
