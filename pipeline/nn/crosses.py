"""Crosses: pairs of fields whose pairs of values are hashed into fields of their own, each with a weight.

A cross of a multi-valued field (documents viewed) with a categorical one (the ad) is a multi-valued field: every value
of the one with the value of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from pipeline.core.errors import ParameterError
from pipeline.core.progress import log
from pipeline.nn.batches import Batch, Inputs, Values
from pipeline.nn.layers import FieldEmbedding
from pipeline.schemas.encoded import Field

_MULTIPLIER = 2_654_435_761  # Knuth's; ids are below 2^31, so nothing overflows before the last product


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a field's values stand in a batch."""

    side: str
    column: int
    multi: bool


class Crosses(nn.Module):
    """The sum over crosses of their weights. (B,)

    crosses: such as `viewed_document x ad_id`. bits: each cross has 2^bits weights.
    Raises ParameterError for a cross of what the network does not read, of numbers, or of two multi-valued fields.
    """

    def __init__(self, inputs: Inputs, crosses: Sequence[str], bits: int) -> None:
        super().__init__()
        self.bits = bits
        sources = _sources(inputs)
        self.pairs = [_parsed(text, sources) for text in crosses]
        self.pairs.sort(key=lambda pair: pair[0].multi)  # as a side has its fields: bags after ids
        fields = [
            Field(
                name=f"cross {i}",
                group="crosses",
                kind="multi" if bag.multi else "categorical",
                per="impression",
                meaning="",
                size=1 << bits,
            )
            for i, (bag, _) in enumerate(self.pairs)
        ]
        self.table = FieldEmbedding(Inputs(fields), 0)

    def forward(self, batch: Batch) -> Tensor:
        display_of = batch.display_of
        first = [1 << self.bits] * len(self.pairs)
        codes, bags = [], []
        for i, (a, b) in enumerate(self.pairs):
            region = i * first[i]
            code = _codes(b, batch, display_of)  # (B,)
            if a.multi:
                values, weights, lengths = _bags(a, batch, display_of)
                bags.append((self._hashed(values, code.repeat_interleave(lengths), region), weights, lengths))
            else:
                codes.append(self._hashed(_codes(a, batch, display_of), code, region))
        return self.table(_crossed(batch, codes, bags)).weights.impression.sum(1)

    def _hashed(self, a: Tensor, b: Tensor, region: int) -> Tensor:
        """Ids in the table: a multiplicative hash of both values. (n,), (n,) -> (n,) int32"""
        mixed = (a.long() * _MULTIPLIER % (1 << 31)) ^ b.long()
        return ((mixed * _MULTIPLIER >> 12) % (1 << self.bits) + region).int()


def not_hidden(inputs: Inputs, crosses: Sequence[str]) -> list[str]:
    """The crosses without those of a field that `leaks: false` hides, which the log tells."""
    hidden = [text for text in crosses if inputs.hidden.intersection(text.split(" x "))]
    for text in hidden:
        log.info("crosses: %s is left out, since it knows of the future", text)
    return [text for text in crosses if text not in hidden]


def _sources(inputs: Inputs) -> dict[str, _Source]:
    found: dict[str, _Source] = {}
    for side in (inputs.display, inputs.impression):
        for multi, fields in ((False, side.categorical), (True, side.multi)):
            found |= {field.name: _Source(side.per, column, multi) for column, field in enumerate(fields)}
    return found


def _parsed(text: str, sources: dict[str, _Source]) -> tuple[_Source, _Source]:
    """The two fields of a cross, the multi-valued one first."""
    names = text.split(" x ")
    if len(names) != 2:
        raise ParameterError(f"crosses: expected two fields, such as `platform x ad_id`, found {text!r}")
    unknown = [name for name in names if name not in sources]
    if unknown:
        raise ParameterError(f"crosses: {text}: {', '.join(unknown)}: no ids that are read")
    a, b = sorted((sources[name] for name in names), key=lambda source: not source.multi)
    if b.multi:
        raise ParameterError(f"crosses: {text}: both fields have several values a row; expected at most one such")
    return a, b


def _codes(source: _Source, batch: Batch, display_of: Tensor) -> Tensor:
    codes = getattr(batch, source.side).codes[:, source.column]
    return codes[display_of] if source.side == "display" else codes


def _bags(source: _Source, batch: Batch, display_of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All values of a bag, row by row, their weights (L,), and how many each row has (B,)."""
    values: Values = getattr(batch, source.side)
    offsets = values.bag_offsets[source.column]
    starts, lengths = offsets[:-1], offsets.diff()
    if source.side == "display":
        starts, lengths = starts[display_of], lengths[display_of]
    before = lengths.cumsum(0) - lengths
    at = torch.arange(int(lengths.sum()), device=starts.device) + (starts - before).repeat_interleave(lengths)
    return values.bag_ids[at], values.bag_weights[at], lengths


def _crossed(batch: Batch, codes: list[Tensor], bags: list[tuple[Tensor, Tensor, Tensor]]) -> Batch:
    """The batch as the crosses' table reads it: fields of impressions alone. What is read counts for the batch."""
    like = batch.impression
    ends = accumulate((len(values) for values, _, _ in bags), initial=0)
    offsets = [
        end + torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        for end, (_, _, lengths) in zip(ends, bags, strict=False)
    ]
    impression = Values(
        torch.stack(codes, dim=1) if codes else like.codes[:, :0],
        torch.cat([values for values, _, _ in bags]) if bags else like.bag_ids[:0],
        torch.cat([weights for _, weights, _ in bags]) if bags else like.bag_weights[:0],
        torch.stack(offsets) if offsets else like.bag_offsets[:0],
        like.numbers[:, :0],
    )
    assert len(impression.codes) == batch.rows
    return replace(batch, display=_without_fields(batch.display), impression=impression)


def _without_fields(values: Values) -> Values:
    return Values(
        values.codes[:, :0], values.bag_ids[:0], values.bag_weights[:0], values.bag_offsets[:0], values.numbers[:, :0]
    )
