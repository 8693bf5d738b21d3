"""Batches of whole displays, cut from memory-mapped arrays without a loop over rows in Python.

Those of training come in the order of `core.epochs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core import epochs
from pipeline.core.computed import Computed
from pipeline.nn import gathering
from pipeline.nn.batches import Batch, Inputs, Side, Values
from pipeline.schemas.encoded import EncodedPart

AHEAD = 4  # batches that are put together while one is trained on


class Reader:
    """Reads a part's fields in batches of `batch_displays` displays."""

    def __init__(self, part: EncodedPart, inputs: Inputs, batch_displays: int) -> None:
        self.part, self.batch_displays = part, batch_displays
        self._sides = [_StoredSide(part, side) for side in (inputs.display, inputs.impression)]
        self._clicked = np.asarray(part.array("clicked")) if part.labelled else None

    def batches_an_epoch(self) -> int:
        """How many batches `shuffled` yields: the last batch of each buffer may be short."""
        return epochs.steps(self.part.displays, self.batch_displays)

    def shuffled(self, seed: tuple[int, ...], skip: int = 0) -> Iterator[Batch]:
        """One epoch in an order that `seed` decides, without its first `skip` batches."""
        buffers = epochs.buffers(self.part.displays, self.batch_displays, seed, skip)
        loaded = epochs.ahead((partial(self._rows, buffer.ranges) for buffer in buffers), 1)

        def batches_of_buffers() -> Iterator[Callable[[], Batch]]:
            for buffer, rows in zip(buffers, loaded, strict=True):
                for chosen in buffer.steps(self.batch_displays):
                    yield partial(rows.batch, chosen)

        return epochs.ahead(batches_of_buffers(), AHEAD)

    def in_order(self, displays: Sequence[slice] | None = None) -> Iterator[tuple[slice, Callable[[], Batch]]]:
        """All batches, or those of some ranges of displays, in the order of the rows: the rows that each holds, as they
        are counted from the first, and what reads it, in whatever thread."""
        at = 0
        for piece in self.part.whole if displays is None else displays:
            for start in range(piece.start, piece.stop, self.batch_displays):
                stop = min(start + self.batch_displays, piece.stop)
                end = at + int(self.part.offsets[stop] - self.part.offsets[start])
                yield slice(at, end), partial(self._range, start, stop)
                at = end

    def _range(self, start: int, stop: int) -> Batch:
        return self._rows([(start, stop)]).every()

    def _rows(self, ranges: Sequence[tuple[int, int]]) -> _Rows:
        return _Rows(self._sides, self._clicked, self.part.offsets, ranges)


# --- displays in memory -------------------------------------------------------------------------------------------


class _StoredSide:
    """The memory-mapped arrays of one side."""

    def __init__(self, part: EncodedPart, side: Side) -> None:
        self.side = side
        self.codes = [part.field(f.name) for f in side.categorical]
        self.numbers = [part.field(f.name) for f in side.numeric]
        self.bags = [[part.field(f.name, kind) for kind in ("offsets", "ids", "weights")] for f in side.multi]


class _LoadedSide:
    """One side of some ranges of displays, gathered into a matrix for each kind of field."""

    def __init__(self, stored: _StoredSide, ranges: Sequence[tuple[int, int]]) -> None:
        side, items = stored.side, sum(stop - start for start, stop in ranges)
        self.side = side
        self.codes = np.empty((items, len(side.categorical)), np.int32)
        self.numbers = np.empty((items, len(side.numeric)), np.float32)
        at = 0
        for start, stop in ranges:
            end = at + stop - start
            for j, values in enumerate(stored.codes):
                gathering.put_codes(values[start:stop], side.first_ids[j], self.codes[at:end], j)
            for j, (values, f) in enumerate(zip(stored.numbers, side.numeric, strict=True)):
                scaling = np.float32(f.mean), np.float32(f.scale)
                gathering.put_numbers(values[start:stop], *scaling, self.numbers[at:end], j)
            at = end
        self.bags = [self._bags(bag, ranges) for bag in stored.bags]

    @staticmethod
    def _bags(bag: Sequence[NDArray[Any] | Computed], ranges: Sequence[tuple[int, int]]) -> tuple[NDArray[Any], ...]:
        offsets, ids, weights = bag
        borders = [offsets[start : stop + 1] for start, stop in ranges]
        lengths = np.concatenate([np.diff(b) for b in borders])
        values = [array[b[0] : b[-1]] for array in (ids, weights) for b in borders]
        half = len(ranges)
        return np.append(0, np.cumsum(lengths)), np.concatenate(values[:half]), np.concatenate(values[half:])

    def every(self) -> Values:
        """All displays or rows in their order."""
        categorical, lengths = len(self.side.categorical), [len(ids) for _, ids, _ in self.bags]
        first = np.cumsum([0, *lengths])
        starts = [offsets + begin for (offsets, _, _), begin in zip(self.bags, first[:-1], strict=True)]
        ids = [bag_ids + self.side.first_ids[categorical + j] for j, (_, bag_ids, _) in enumerate(self.bags)]
        arrays = (
            self.codes,
            np.concatenate([np.empty(0, np.int32), *ids]).astype(np.int32, copy=False),
            np.concatenate([np.empty(0, np.float32), *(weights for _, _, weights in self.bags)]).astype(
                np.float32, copy=False
            ),
            np.stack(starts) if starts else np.empty((0, len(self.codes) + 1), np.int64),
            self.numbers,
        )
        return Values(*(torch.from_numpy(array) for array in arrays))

    def values(self, items: NDArray[np.int64]) -> Values:
        """Some displays or rows in a given order."""
        n, side = len(items), self.side
        codes = np.empty((n, self.codes.shape[1]), np.int32)
        numbers = np.empty((n, self.numbers.shape[1]), np.float32)
        gathering.take(self.codes, items, codes)
        gathering.take(self.numbers, items, numbers)
        total = sum(int((offsets[items + 1] - offsets[items]).sum()) for offsets, _, _ in self.bags)
        ids, weights = np.empty(total, np.int32), np.empty(total, np.float32)
        starts, at = np.empty((len(self.bags), n + 1), np.int64), 0
        for j, (offsets, bag_ids, bag_weights) in enumerate(self.bags):
            gathering.take_bags(offsets, bag_ids, bag_weights, items, at, starts[j], ids, weights)
            ids[at : starts[j, n]] += side.first_ids[len(side.categorical) + j]
            at = int(starts[j, n])
        return Values(*(torch.from_numpy(array) for array in (codes, ids, weights, starts, numbers)))


class _Rows:
    """Some ranges of displays in memory, from which batches are gathered."""

    def __init__(
        self,
        sides: Sequence[_StoredSide],
        clicked: NDArray[Any] | None,
        offsets: NDArray[np.int64],
        ranges: Sequence[tuple[int, int]],
    ) -> None:
        rows = [(int(offsets[start]), int(offsets[stop])) for start, stop in ranges]
        lengths = np.concatenate([np.diff(offsets[start : stop + 1]) for start, stop in ranges])
        self.displays = len(lengths)
        self.offsets = np.append(0, np.cumsum(lengths))
        self.display, self.impression = _LoadedSide(sides[0], ranges), _LoadedSide(sides[1], rows)
        self.clicked = None if clicked is None else np.concatenate([clicked[a:b] for a, b in rows]).astype(np.float32)

    def every(self) -> Batch:
        """All displays in their order."""
        clicked = None if self.clicked is None else torch.from_numpy(self.clicked)
        return Batch(self.display.every(), self.impression.every(), torch.from_numpy(self.offsets), clicked)

    def batch(self, displays: NDArray[np.int64]) -> Batch:
        starts = np.empty(len(displays) + 1, np.int64)
        rows = gathering.rows_of(self.offsets, displays, starts)
        return Batch(
            display=self.display.values(displays),
            impression=self.impression.values(rows),
            starts=torch.from_numpy(starts),
            clicked=None if self.clicked is None else torch.from_numpy(self.clicked[rows]),
        )
