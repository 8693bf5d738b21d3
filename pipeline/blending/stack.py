"""What a blend reads: the members' logits, and what else is known of the impressions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.blending.weights import Weights, likelihood_weights
from pipeline.core.config import check
from pipeline.core.errors import ParameterError
from pipeline.core.progress import log
from pipeline.metrics import Labelled
from pipeline.schemas.encoded import Encoded, EncodedPart, Field
from pipeline.schemas.impressions import COLD

_MOST_CODES = 16
_BLOCK_DISPLAYS = 1 << 18

Chosen = NDArray[np.bool_] | slice  # of the displays: (D,), or those that follow each other


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendConfig:
    """The section `blend` of params.yaml.

    members: names of models. context: what stackers read beside the members' logits: encoded fields, numbers or
    categories of a few codes (one that is not encoded is left out, and told), and flags cold_* of a display. folds: of
    the cross-validation. search_displays: on how many displays a combination is fitted. trials: of the search for the
    weighted mean of greatest MAP@12.
    """

    members: tuple[str, ...]
    context: tuple[str, ...] = ()
    folds: int = 5
    search_displays: int = 200_000
    trials: int = 50

    def __post_init__(self) -> None:
        check(len(self.members) >= 1, "members: expected at least one model")
        check(len(set(self.members)) == len(self.members), f"members: one stands twice in {list(self.members)}")
        check(3 <= self.folds <= 20, f"folds: must be from 3 to 20, found {self.folds}")
        check(self.search_displays >= 1, f"search_displays: must be 1 or more, found {self.search_displays}")
        check(self.trials >= 1, f"trials: must be 1 or more, found {self.trials}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """N impressions of D displays. logits: (N, M). context: (N, C) float32, with its columns' names. offsets: (D + 1,).

    cold: (D, K), whether some ad, the user or the page is new, and which of them each of the `flags` is. future: (D,).
    """

    logits: NDArray[np.float32]
    context: NDArray[np.float32]
    names: tuple[str, ...]
    cold: NDArray[np.bool_]
    flags: tuple[str, ...]
    offsets: NDArray[np.int64]
    future: NDArray[np.bool_]

    @property
    def displays(self) -> int:
        return len(self.future)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def take(self, displays: Chosen) -> Stack:
        """The impressions of some displays; of a slice of them nothing is copied."""
        rows = _rows(displays, self.offsets)
        return replace(
            self,
            logits=self.logits[rows],
            context=self.context[rows],
            offsets=np.concatenate([[0], np.cumsum(self.lengths[displays])]),
            cold=self.cold[displays],
            future=self.future[displays],
        )


def _rows(displays: Chosen, offsets: NDArray[np.int64]) -> NDArray[np.bool_] | slice:
    """The impressions of some displays."""
    if isinstance(displays, slice):
        first, last, _ = displays.indices(len(offsets) - 1)
        return slice(offsets[first], offsets[last])
    return np.repeat(displays, np.diff(offsets))


def blocks(displays: int) -> Iterator[slice]:
    """All displays in their order, so few at a time that what is computed of a block's impressions is small."""
    return (slice(first, first + _BLOCK_DISPLAYS) for first in range(0, displays, _BLOCK_DISPLAYS))


def take_labels(labels: Labelled, displays: Chosen) -> Labelled:
    """The labels of some displays; of a slice of them nothing is copied."""
    lengths, rows = np.diff(labels.offsets), _rows(displays, labels.offsets)
    return replace(
        labels,
        clicked=np.asarray(labels.clicked)[rows],
        ad_id=np.asarray(labels.ad_id)[rows],
        display_id=np.asarray(labels.display_id)[displays],
        offsets=np.concatenate([[0], np.cumsum(lengths[displays])]),
        slices={name: values[displays] for name, values in labels.slices.items()},
    )


@dataclass(frozen=True)
class Sample:
    """Labelled displays on which combinations are fitted; what several of them start from is computed once."""

    stack: Stack
    labels: Labelled

    def take(self, displays: Chosen) -> Sample:
        """Some of the displays."""
        return Sample(self.stack.take(displays), take_labels(self.labels, displays))

    def without(self, member: int) -> Sample:
        return Sample(replace(self.stack, logits=np.delete(self.stack.logits, member, axis=1)), self.labels)

    @cached_property
    def likelihood(self) -> Weights:
        """Of the members' logits (M,): see weights.likelihood_weights."""
        return likelihood_weights(self.stack.logits, self.labels)


def thinned(displays: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    """Of some displays (D,) `most`, evenly chosen."""
    chosen = np.flatnonzero(displays)
    if len(chosen) <= most:
        return displays
    result = np.zeros(len(displays), dtype=bool)
    result[chosen[np.linspace(0, len(chosen) - 1, most).astype(np.int64)]] = True
    return result


def read_stack(encoded: Encoded, logits: NDArray[np.float32], context: Sequence[str]) -> Stack:
    """The target part of a split, with the members' logits (N, M).

    Raises ParameterError for a field of the context that has several values a row or too many codes.
    """
    part, columns, names = encoded.part("target"), [], []
    flags = tuple(name for name in context if name in COLD)
    for name in context:
        if name in flags:
            continue
        if name not in encoded.fields:
            log.info("blend.context: %s is not encoded, so it is left out", name)
            continue
        field = encoded.fields[name]
        if field.kind == "multi" or field.size > _MOST_CODES:
            raise ParameterError(
                f"blend.context: {name} has {'several values a row' if field.kind == 'multi' else field.size} codes;"
                f" expected a number or at most {_MOST_CODES} codes"
            )
        columns += _columns(part, field)
        names += [name] if field.kind == "numeric" else [f"{name}={code}" for code in range(field.size)]
    return Stack(
        logits=logits,
        context=np.stack(columns, axis=1) if columns else np.empty((part.rows, 0), np.float32),
        names=tuple(names),
        cold=np.stack([part.array(name) for name in flags], axis=1)
        if flags
        else np.empty((len(part.offsets) - 1, 0), bool),
        flags=flags,
        offsets=part.offsets,
        future=np.asarray(part.array("future")),
    )


def _columns(part: EncodedPart, field: Field) -> list[NDArray[np.float32]]:
    """A number, standardised, 0 where unknown; or a column of 0 and 1 for each code."""
    values = part.values(field, np.arange(part.rows))
    if field.kind == "numeric":
        number = (values - np.float32(field.mean)) / np.float32(field.scale)
        return [np.nan_to_num(number.astype(np.float32), nan=0.0)]
    return [(values == code).astype(np.float32) for code in range(field.size)]
