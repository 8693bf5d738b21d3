"""Batches of whole displays, cut from memory-mapped arrays without a loop over rows.

Training reads blocks of neighbouring displays (a disk likes that), mixes several random blocks in a buffer and shuffles
the buffer's displays. The order depends on the seed alone, so a killed run can go on in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.schemas.encoded import EncodedPart, Field, fuse

BLOCK = 4096  # displays that are read in one go
BUFFER_BLOCKS = 16


class Inputs:
    """The fields that a network reads, by kind, and where each has its rows in the fused table.

    F: categorical fields. M: multi-valued fields. K: numeric fields.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.categorical = [f for f in fields if f.kind == "categorical"]
        self.multi = [f for f in fields if f.kind == "multi"]
        self.numeric = [f for f in fields if f.kind == "numeric"]
        self.first_ids, self.table_size = fuse([*self.categorical, *self.multi])
        self.embedded = len(self.categorical) + len(self.multi)


@dataclass(slots=True)
class Batch:
    """Whole displays. B: rows, D: displays.

    codes: (B, F) int64 fused ids. bag_ids, bag_weights: (L,) all values of all multi-valued fields, field by field, row
    by row; bag_starts: (M * B,) where each row's begin. numbers: (B, K) float32, standardised, unknown is 0.
    display: (B,) int64 in 0..D-1. clicked: (B,) float32, or None where labels are unknown.
    """

    codes: Tensor
    bag_ids: Tensor
    bag_weights: Tensor
    bag_starts: Tensor
    numbers: Tensor
    display: Tensor
    displays: int
    clicked: Tensor | None

    @property
    def rows(self) -> int:
        return len(self.display)

    def to(self, device: torch.device) -> Batch:
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}
        return Batch(**moved)


class Reader:
    """Reads a part's fields in batches of `batch_displays` displays."""

    def __init__(self, part: EncodedPart, inputs: Inputs, batch_displays: int) -> None:
        self.part, self.inputs, self.batch_displays = part, inputs, batch_displays
        self._codes = [part.field(f.name) for f in inputs.categorical]
        self._numbers = [part.field(f.name) for f in inputs.numeric]
        self._bags = [[part.field(f.name, kind) for kind in ("offsets", "ids", "weights")] for f in inputs.multi]
        self._clicked = part.array("clicked") if part.labelled else None
        self._blocks = -(-part.displays // BLOCK)

    def batches_an_epoch(self) -> int:
        """How many batches `shuffled` yields: the last batch of each buffer may be short."""
        return sum(-(-self._displays(buffer) // self.batch_displays) for buffer in self._buffers(None))

    def shuffled(self, seed: tuple[int, ...], skip: int = 0) -> Iterator[Batch]:
        """One epoch in an order that `seed` decides, without its first `skip` batches."""
        random = np.random.default_rng(seed)
        jobs: list[tuple[NDArray[np.int64], int, int]] = []
        for buffer in self._buffers(random):
            batches = -(-self._displays(buffer) // self.batch_displays)
            order_seed = int(random.integers(1 << 62))
            if skip >= batches:
                skip -= batches
            else:
                jobs.append((buffer, order_seed, skip))
                skip = 0
        with ThreadPoolExecutor(1) as background:  # the next buffer is read while this one is trained on
            pending = background.submit(self._load, jobs[0][0]) if jobs else None
            for i, (_, order_seed, first) in enumerate(jobs):
                assert pending is not None
                rows = pending.result()
                pending = background.submit(self._load, jobs[i + 1][0]) if i + 1 < len(jobs) else None
                order = np.random.default_rng(order_seed).permutation(rows.displays)
                for start in range(first * self.batch_displays, rows.displays, self.batch_displays):
                    yield rows.batch(order[start : start + self.batch_displays])

    def in_order(self) -> Iterator[tuple[slice, Batch]]:
        """All batches in the order of the rows, each with the rows that it holds."""
        for start in range(0, self.part.displays, BLOCK):
            rows = self._load_range(start, min(start + BLOCK, self.part.displays))
            for first in range(0, rows.displays, self.batch_displays):
                chosen = np.arange(first, min(first + self.batch_displays, rows.displays))
                begin = int(self.part.offsets[start + first])
                end = int(self.part.offsets[start + chosen[-1] + 1])
                yield slice(begin, end), rows.batch(chosen)

    def _buffers(self, random: np.random.Generator | None) -> list[NDArray[np.int64]]:
        order = np.arange(self._blocks) if random is None else random.permutation(self._blocks)
        if random is not None and self._blocks:
            # the one short block goes last, so that the number of batches does not depend on the order
            order = np.append(order[order != self._blocks - 1], self._blocks - 1)
        return [order[i : i + BUFFER_BLOCKS] for i in range(0, len(order), BUFFER_BLOCKS)]

    def _displays(self, blocks: NDArray[np.int64]) -> int:
        return int((np.minimum((blocks + 1) * BLOCK, self.part.displays) - blocks * BLOCK).sum())

    def _load(self, blocks: NDArray[np.int64]) -> _Rows:
        pieces = [self._load_range(int(b) * BLOCK, min((int(b) + 1) * BLOCK, self.part.displays)) for b in blocks]
        return _Rows.concatenate(pieces)

    def _load_range(self, start: int, stop: int) -> _Rows:
        offsets = self.part.offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        inputs, n = self.inputs, last - first
        display = np.repeat(np.arange(stop - start), np.diff(offsets))  # of each row

        def by_row(array: NDArray[Any], field: Field) -> NDArray[Any]:
            return np.asarray(array[start:stop][display] if field.per == "display" else array[first:last])

        codes = np.empty((n, len(self._codes)), dtype=np.int64)
        for j, (array, field) in enumerate(zip(self._codes, inputs.categorical, strict=True)):
            np.add(by_row(array, field), inputs.first_ids[j], out=codes[:, j])
        numbers = np.empty((n, len(self._numbers)), dtype=np.float32)
        for j, (array, field) in enumerate(zip(self._numbers, inputs.numeric, strict=True)):
            numbers[:, j] = (by_row(array, field) - np.float32(field.mean)) / np.float32(field.scale)
        np.nan_to_num(numbers, copy=False, nan=0.0)
        bags = []
        for j, ((bag_offsets, ids, weights), field) in enumerate(zip(self._bags, inputs.multi, strict=True)):
            low, high = (start, stop) if field.per == "display" else (first, last)
            o = np.asarray(bag_offsets[low : high + 1])
            fused = ids[o[0] : o[-1]].astype(np.int64) + inputs.first_ids[len(self._codes) + j]
            bag = _Bag(o - o[0], fused, np.asarray(weights[o[0] : o[-1]]))
            bags.append(bag.take(display) if field.per == "display" else bag)
        clicked = None if self._clicked is None else self._clicked[first:last].astype(np.float32)
        return _Rows(offsets - first, codes, numbers, bags, clicked)


@dataclass(slots=True)
class _Bag:
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    weights: NDArray[np.float32]

    def take(self, chosen: NDArray[np.int64]) -> _Bag:
        lengths, values = _gather(self.offsets, chosen)
        return _Bag(np.append(0, np.cumsum(lengths)), self.ids[values], self.weights[values])


@dataclass(slots=True)
class _Rows:
    """Some displays in memory, from which batches are gathered."""

    offsets: NDArray[np.int64]
    codes: NDArray[np.int64]
    numbers: NDArray[np.float32]
    bags: list[_Bag]
    clicked: NDArray[np.float32] | None

    @property
    def displays(self) -> int:
        return len(self.offsets) - 1

    @staticmethod
    def concatenate(pieces: Sequence[_Rows]) -> _Rows:
        bags = [
            _Bag(
                _joined([bag.offsets for bag in same]),
                np.concatenate([bag.ids for bag in same]),
                np.concatenate([bag.weights for bag in same]),
            )
            for same in zip(*(piece.bags for piece in pieces), strict=True)
        ]
        labels = [piece.clicked for piece in pieces if piece.clicked is not None]
        return _Rows(
            _joined([piece.offsets for piece in pieces]),
            np.concatenate([piece.codes for piece in pieces]),
            np.concatenate([piece.numbers for piece in pieces]),
            bags,
            np.concatenate(labels) if labels else None,
        )

    def batch(self, displays: NDArray[np.int64]) -> Batch:
        lengths, rows = _gather(self.offsets, displays)
        ids, weights, starts, total = [], [], [], 0
        for bag in self.bags:
            bag_lengths, values = _gather(bag.offsets, rows)
            ids.append(bag.ids[values])
            weights.append(bag.weights[values])
            starts.append(total + np.cumsum(bag_lengths) - bag_lengths)
            total += len(values)
        return Batch(
            codes=torch.from_numpy(self.codes[rows]),
            bag_ids=_tensor(ids, np.int64),
            bag_weights=_tensor(weights, np.float32),
            bag_starts=_tensor(starts, np.int64),
            numbers=torch.from_numpy(self.numbers[rows]),
            display=torch.from_numpy(np.repeat(np.arange(len(displays)), lengths)),
            displays=len(displays),
            clicked=None if self.clicked is None else torch.from_numpy(self.clicked[rows]),
        )


def _tensor(pieces: list[NDArray[Any]], dtype: Any) -> Tensor:
    return torch.from_numpy(np.concatenate(pieces) if pieces else np.empty(0, dtype))


def _joined(offsets: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Offsets of ranges that are put one behind the other."""
    shifts = np.cumsum([0, *(o[-1] for o in offsets)])
    return np.concatenate([[0], *(o[1:] + shift for o, shift in zip(offsets, shifts[:-1], strict=True))])


def _gather(offsets: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The length of each chosen range, and the indices of their elements, range by range."""
    starts = offsets[chosen]
    lengths = offsets[chosen + 1] - starts
    ends = np.cumsum(lengths)
    return lengths, np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
