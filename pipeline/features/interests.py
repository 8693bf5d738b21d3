"""What the user is interested in: categories and topics of the pages viewed, and where the user reads.

A category or topic counts in proportion to the cube of how often it is met. Not to how often: views scatter around a
few interests, so what is met half as often as another is far less than half as likely to be one. Nor does it count how
many pages there are: ten about a thing do not make its ads ten times as attractive as one. The favourite publisher is
where the user reads most, sharply: half as often is not at all.

The profile leaves the display's own page out: models read that anyway, and to most users, who view but a few pages, it
would add an interest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.core.engine import Engine
from pipeline.features.base import Group, Inputs
from pipeline.features.displays import Bags, Chunk, Columns, Walk
from pipeline.features.subjects import SUBJECTS, Label, about, in_units
from pipeline.features.vectors import Index, Longs, Read, Sums, Vectors, read_index, read_vectors
from pipeline.schemas.features import Scope, bag

#: name -> (what was read, scope).
_READ: dict[str, tuple[str, Scope]] = {
    "interest": ("the pages that the user viewed before the display, and its own page", "time-causal"),
    "profile": ("the pages that the user viewed before and after the display", "future"),
}
#: What is met so many times less often than what is met most is left out, and most is: its cube is next to nothing.
_RARER = 4


def walk(engine: Engine, inputs: Inputs) -> Walk:
    labels = {label for _, label, _ in _COLUMNS.values()}
    vectors = {label: read_vectors(engine, in_units(about(inputs, label))) for label in sorted(labels)}
    promoted = read_index(engine, inputs.table("promoted_content").document_id)
    return Walk(lambda chunk: _lists(vectors, promoted, chunk))


def _lists(vectors: dict[Label, Vectors], promoted: Index, chunk: Chunk) -> Columns:
    """The lists of a chunk's displays: what was read is their page, what was viewed before, and after, in this order.

    After them those that are promoted somewhere are left out: they tell what was clicked (group `leak`).
    """
    displays, viewed = np.arange(len(chunk.page)), chunk.beside["document_id"]
    told = (chunk.beside["delay"] >= 0) & (promoted.places(viewed) >= 0)
    documents = np.insert(np.where(told, -1, viewed), chunk.beside_offsets[:-1], chunk.page)
    places = {label: known.documents.places(documents) for label, known in vectors.items()}
    page = chunk.beside_offsets[:-1] + displays
    borders = {
        "interest": (page, chunk.after_offsets + displays + 1),
        "profile": (page + 1, chunk.beside_offsets[1:] + displays + 1),
    }
    return {
        name: weigh(vectors[label].sums(Read(*borders[read], places[label])))
        for name, (read, label, weigh) in _COLUMNS.items()
    }


def _cubed(met: Sums) -> Bags:
    """The lists of how often ids are met, which is the sum of the confidences with which the pages are about them: the
    weight is 1 for what is met most."""
    display, most = _heaviest(met)
    kept = (met.weights * _RARER >= most) & (most > 0)
    ratio = met.weights[kept] / most[kept]
    return Bags(_offsets(met, display[kept]), met.ids[kept], (ratio * ratio * ratio).astype(np.float32))


def _most(met: Sums) -> Bags:
    """The lists of what is met most; if that is several ids each has its share of a weight of 1."""
    display, most = _heaviest(met)
    kept = met.weights == most
    offsets = _offsets(met, display[kept])
    return Bags(offsets, met.ids[kept], (1 / np.diff(offsets)[display[kept]]).astype(np.float32))


def _heaviest(met: Sums) -> tuple[Longs, Longs]:
    """The display of each id, and the greatest weight there."""
    lengths = np.diff(met.offsets)
    most = np.zeros(len(lengths), np.int64)
    if len(met.weights):
        most[lengths > 0] = np.maximum.reduceat(met.weights, met.offsets[:-1][lengths > 0])
    display = np.repeat(np.arange(len(lengths)), lengths)
    return display, most[display]


def _offsets(met: Sums, display: Longs) -> Longs:
    """Where the ids of each display begin, if of `met` those of these displays are kept."""
    return np.append(0, np.cumsum(np.bincount(display, minlength=len(met.offsets) - 1)))


#: name -> (what was read, what is counted of it, how often it is met -> its weight).
_COLUMNS: dict[str, tuple[str, Label, Callable[[Sums], Bags]]] = {
    **{f"{read}_{subject}": (read, subject, _cubed) for subject in SUBJECTS for read in _READ},
    "favourite_publisher": ("profile", "publisher", _most),
}
GROUP = Group(
    scope="time-causal",
    columns=tuple(
        bag(
            name,
            f"{'each' if weigh is _cubed else 'most frequent'} {label} of {_READ[read][0]}",
            _READ[read][1],
            "display",
        )
        for name, (read, label, weigh) in _COLUMNS.items()
    ),
    walk=walk,
)
