"""Writes columns of features as what models read: codes, bags of codes, numbers and their buckets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.encode.arrays import Arrays
from pipeline.encode.loops import find_buckets, scale_bags
from pipeline.encode.reading import read_chunks, to_numpy
from pipeline.encode.vocabulary import Codes
from pipeline.schemas.encoded import Field, code_type

_SAMPLE = 1 << 18  # rows of history: they tell the share of values below a quantile to a thousandth


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
        self._codes = codes
        self._offsets = arrays.create(f"{name}.offsets", np.int64)
        self._ids = arrays.create(f"{name}.ids", np.int32)
        self._weights = arrays.create(f"{name}.weights", np.float32)
        self._offsets.append(np.zeros(1, np.int64))
        self._total = 0

    def add(self, column: pa.Array) -> None:
        """Append the lists of a batch; null is an empty bag."""
        lengths = to_numpy(column.value_lengths().fill_null(0))
        values = column.flatten()
        weights = to_numpy(values.field("weight"))
        scaled = np.empty_like(weights)
        scale_bags(lengths, weights, scaled)
        self._ids.append(self._codes.of_ids(to_numpy(values.field("id"))))
        self._weights.append(scaled)
        self._offsets.append(self._total + np.cumsum(lengths, dtype=np.int64))
        self._total += len(weights)


class NumberWriter:
    """A numeric field; null is NaN."""

    def __init__(self, arrays: Arrays, name: str) -> None:
        self._array = arrays.create(name, np.float32)

    def add(self, column: pa.Array) -> None:
        self._array.append(to_numpy(column))


class Sample:
    """Every so many rows of a numeric column: enough to tell its moments and quantiles."""

    def __init__(self, rows: int) -> None:
        self._step = max(1, -(-rows // _SAMPLE))
        self._pieces: list[NDArray[np.float32]] = []

    def add(self, position: int, column: pa.Array) -> None:
        """position: of the column's first row in its part."""
        self._pieces.append(to_numpy(column)[-position % self._step :: self._step].astype(np.float32))

    def known(self) -> NDArray[np.float32]:
        """The values but for NaN."""
        values = np.concatenate(self._pieces) if self._pieces else np.empty(0, np.float32)
        return values[~np.isnan(values)]


def describe(number: Field, sample: NDArray[np.float32], buckets: int) -> tuple[Field, Field, NDArray[np.float32]]:
    """A numeric field with mean and scale; its categorical twin by quantiles: 0 unknown, then 1, 2, ...; the edges."""
    edges = np.empty(0, np.float32)
    if len(sample):
        values = sample.astype(np.float64)
        mean, scale = float(values.mean()), float(values.std())
        number = replace(number, mean=mean, scale=scale if scale > 1e-6 else 1.0)
        edges = np.unique(_quantiles(sample, np.linspace(0, 1, buckets + 1)[1:-1]))
    twin = replace(
        number,
        name=f"{number.name}_bucket",
        kind="categorical",
        size=len(edges) + 2,
        twin=number.name,
        mean=0.0,
        scale=1.0,
    )
    return number, twin, edges


def _quantiles(sample: NDArray[np.float32], shares: NDArray[np.float64]) -> NDArray[np.float32]:
    """np.quantile, interpolated in float64; the sample is ordered as float32, which takes half the time."""
    places = shares * (len(sample) - 1)
    below = places.astype(np.int64)
    above = np.minimum(below + 1, len(sample) - 1)
    ordered = np.partition(sample, np.unique([below, above]))
    low, high = ordered[below].astype(np.float64), ordered[above].astype(np.float64)
    return (low + (high - low) * (places - below)).astype(np.float32)


def write_twin(arrays: Arrays, folder: str, twin: Field, edges: NDArray[np.float32]) -> None:
    """The buckets of a numeric field that is written already, in a folder of fields."""
    array = arrays.create(f"{folder}/{twin.name}", code_type(twin.size))
    for values in read_chunks(arrays.folder / folder / f"{twin.twin}.npy"):
        codes: NDArray[Any] = np.empty(len(values), code_type(twin.size))
        find_buckets(np.asarray(values), edges, codes)
        array.append(codes)
