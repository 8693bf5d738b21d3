"""What a batch of whole displays holds, and how it is cut into pieces.

A batch keeps apart what all ads of a display share and what each impression has by itself: what a network computes from
the former need be computed only once for each display, which has 5 ads on average.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.schemas.encoded import Field, fuse

#: Rows in a piece of a batch, each of which is computed by one thread. Half of it is worth a second piece.
PIECE_ROWS = 2048


class Side:
    """The fields of one side, by display or by impression, of each kind; and their first rows in the fused table.

    F: categorical fields. M: multi-valued fields. G = F + M. K: numeric fields.
    """

    def __init__(self, fields: Sequence[Field], per: Literal["display", "impression"]) -> None:
        own = [f for f in fields if f.per == per]
        self.per = per
        self.categorical = [f for f in own if f.kind == "categorical"]
        self.multi = [f for f in own if f.kind == "multi"]
        self.numeric = [f for f in own if f.kind == "numeric"]
        self.embedded = [*self.categorical, *self.multi]
        self.first_ids = np.empty(0, np.int32)


class Inputs:
    """The fields that a network reads. In the fused table those of displays come first, and bags after ids.

    embedded: how many fields have embeddings. numeric: how many are numbers. hidden: names of fields that could be
    read, but for `leaks: false`.
    """

    def __init__(self, fields: Sequence[Field], hidden: Collection[str] = ()) -> None:
        self.hidden = frozenset(hidden)
        self.display, self.impression = Side(fields, "display"), Side(fields, "impression")
        first_ids, self.table_size = fuse([*self.display.embedded, *self.impression.embedded])
        self.display.first_ids, self.impression.first_ids = np.split(first_ids, [len(self.display.embedded)])
        self.embedded = len(first_ids)
        self.numeric = len(self.display.numeric) + len(self.impression.numeric)

    def nothing(self) -> Batch:
        """A batch of no displays."""

        def values(side: Side) -> Values:
            return Values(
                torch.empty(0, len(side.categorical), dtype=torch.int32),
                torch.empty(0, dtype=torch.int32),
                torch.empty(0),
                torch.zeros(len(side.multi), 1, dtype=torch.int64),
                torch.empty(0, len(side.numeric)),
            )

        return Batch(values(self.display), values(self.impression), torch.zeros(1, dtype=torch.int64), None)


@dataclass(slots=True)
class Values:
    """What one side of a batch holds. n: displays, or rows.

    codes: (n, F) int32 rows of the fused table. bag_ids, bag_weights: (L,) all values of all bags, int32 and float32;
    the bag of field j of item i has those from bag_offsets[j, i] to bag_offsets[j, i + 1]: (M, n + 1) int64.
    numbers: (n, K) float32, standardised, unknown is 0.
    """

    codes: Tensor
    bag_ids: Tensor
    bag_weights: Tensor
    bag_offsets: Tensor
    numbers: Tensor

    def piece(self, first: int, last: int) -> Values:
        """Some neighbouring displays or rows; shares memory."""
        offsets = self.bag_offsets[:, first : last + 1]
        return Values(self.codes[first:last], self.bag_ids, self.bag_weights, offsets, self.numbers[first:last])

    def to(self, device: torch.device) -> Values:
        return Values(*(getattr(self, name).to(device) for name in self.__slots__))


@dataclass(slots=True)
class Batch:
    """Whole displays. B: rows, D: displays.

    display: (D, ...) what a display's ads share. impression: (B, ...) the rest. starts: (D + 1,) int64, the first rows
    of displays. clicked: (B,) float32, or None where labels are unknown.
    reads: what layers.FieldEmbedding has read from tables for this batch, so that training can change it.
    """

    display: Values
    impression: Values
    starts: Tensor
    clicked: Tensor | None
    reads: list[Any] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.impression.codes)

    @property
    def displays(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Tensor:
        """Rows of each display. (D,) int64"""
        return self.starts.diff()

    @property
    def display_of(self) -> Tensor:
        """The display of each row. (B,) int64 in 0..D-1"""
        return torch.repeat_interleave(self.lengths, output_size=self.rows)

    def to(self, device: torch.device) -> Batch:
        clicked = None if self.clicked is None else self.clicked.to(device)
        return Batch(self.display.to(device), self.impression.to(device), self.starts.to(device), clicked)

    def borders(self, count: int | None = None) -> list[int]:
        """The first displays of `count` pieces, or fewer if there are fewer displays; and the end.

        If it is not given, of about PIECE_ROWS rows each, at least two if there are as many. Then their number depends
        on the batch alone: not the cores of a machine, but the data decides the order of sums.
        """
        if count is None:
            count = max(2, self.rows // PIECE_ROWS) if self.rows >= PIECE_ROWS // 2 else 1
        pieces = min(count, self.displays)
        return [i * self.displays // pieces for i in range(pieces + 1)]

    def pieces(self, count: int | None = None) -> list[Batch]:
        """Cut into pieces of whole displays (see `borders`)."""
        return [self._piece(first, last) for first, last in pairwise(self.borders(count))]

    def _piece(self, first: int, last: int) -> Batch:
        low, high = int(self.starts[first]), int(self.starts[last])
        clicked = None if self.clicked is None else self.clicked[low:high]
        starts = self.starts[first : last + 1] - low
        return Batch(self.display.piece(first, last), self.impression.piece(low, high), starts, clicked)
