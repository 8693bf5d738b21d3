"""What the user is interested in: categories and topics of the pages viewed, and where the user reads.

A category or topic counts in proportion to the cube of how often it is met. Not to how often: views scatter around a
few interests, so what is met half as often as another is far less than half as likely to be one. Nor does it count how
many pages there are: ten about a thing do not make its ads ten times as attractive as one.

The favourite publisher is where the user reads most, sharply: half as often is not at all. The display's own page does
not count: models read it anyway, and to most users, who view but a few pages, it would add a favourite.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.engine import Engine
from pipeline.features.base import Group, Inputs
from pipeline.features.displays import Bags, Chunk, Columns, Walk
from pipeline.features.subjects import SUBJECTS, Label, about, in_units
from pipeline.features.vectors import Index, Longs, Read, Sums, Vectors, read_index, read_vectors
from pipeline.schemas.features import Scope, bag

_READ: tuple[Label, ...] = (*SUBJECTS, "publisher")
#: name -> (pages, scope).
_NAMES: dict[str, tuple[str, Scope]] = {
    "interest": ("the pages that the user viewed before the display, and its own page", "time-causal"),
    "profile": ("the pages that the user viewed before and after the display, and its own page", "future"),
}
#: What is met so many times less often than what is met most is left out, and most is: its cube is next to nothing.
_RARER = 4


def walk(engine: Engine, inputs: Inputs) -> Walk:
    vectors = {label: read_vectors(engine, in_units(about(inputs, label))) for label in _READ}
    promoted = read_index(engine, inputs.table("promoted_content").document_id)
    return Walk(
        lambda chunk: {
            **_interests(vectors, promoted, chunk),
            "favourite_publisher": _favourite(vectors["publisher"], promoted, chunk),
        }
    )


def _interests(vectors: dict[Label, Vectors], promoted: Index, chunk: Chunk) -> Columns:
    """The lists of a chunk's displays: what was read is their page, what was viewed before, and after, in this order.

    After them those that are promoted somewhere are left out: they tell what was clicked (group `leak`).
    """
    displays, viewed = np.arange(len(chunk.page)), chunk.beside["document_id"]
    told = (chunk.beside["delay"] >= 0) & (promoted.places(viewed) >= 0)
    documents = np.insert(np.where(told, -1, viewed), chunk.beside_offsets[:-1], chunk.page)
    begins = chunk.beside_offsets[:-1] + displays
    ends = {"interest": chunk.after_offsets + displays + 1, "profile": chunk.beside_offsets[1:] + displays + 1}
    columns = {}
    for subject in SUBJECTS:
        known = vectors[subject]
        places = known.documents.places(documents)
        for name, end in ends.items():
            columns[f"{name}_{subject}"] = _cubed(known.sums(Read(begins, end, places)))
    return columns


def _favourite(publishers: Vectors, promoted: Index, chunk: Chunk) -> Bags:
    """Where most of the pages stand that the user viewed, but for promoted ones, to which a click may have led."""
    viewed = chunk.beside["document_id"]
    places = publishers.documents.places(np.where(promoted.places(viewed) < 0, viewed, -1))
    return _most(publishers.sums(Read(chunk.beside_offsets[:-1], chunk.beside_offsets[1:], places)))


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


GROUP = Group(
    scope="time-causal",
    columns=(
        *(
            bag(f"{name}_{subject}", f"each {subject} of {pages}", scope, "display")
            for subject in SUBJECTS
            for name, (pages, scope) in _NAMES.items()
        ),
        bag(
            "favourite_publisher",
            "the publisher of most pages that the user viewed before and after the display",
            "future",
            "display",
        ),
    ),
    walk=walk,
)
