"""What the user is interested in: the categories and topics of the pages viewed, in proportion to the cube of how often
each is met.

Not to how often: views scatter around a few interests, so what is met half as often as another is far less than half as
likely to be one. Nor does it count how many pages there are: ten about a thing do not make its ads ten times as
attractive as one.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.engine import Engine
from pipeline.features.base import Group, Inputs
from pipeline.features.displays import Bags, Chunk, Columns, Walk
from pipeline.features.subjects import SUBJECTS, Subject, about, in_units
from pipeline.features.vectors import Index, Read, Sums, Vectors, read_index, read_vectors
from pipeline.schemas.features import Scope, bag

#: name -> (pages, scope).
_NAMES: dict[str, tuple[str, Scope]] = {
    "interest": ("the pages that the user viewed before the display, and its own page", "time-causal"),
    "profile": ("the pages that the user viewed before and after the display, and its own page", "future"),
}
#: What is met so many times less often than what is met most is left out, and most is: its cube is next to nothing.
_RARER = 4


def walk(engine: Engine, inputs: Inputs) -> Walk:
    vectors = {subject: read_vectors(engine, in_units(about(inputs, subject))) for subject in SUBJECTS}
    promoted = read_index(engine, inputs.table("promoted_content").document_id)
    return Walk(lambda chunk: _interests(vectors, promoted, chunk))


def _interests(vectors: dict[Subject, Vectors], promoted: Index, chunk: Chunk) -> Columns:
    """The lists of a chunk's displays: what was read is their page, what was viewed before, and after, in this order.

    After them those that are promoted somewhere are left out: they tell what was clicked (group `leak`).
    """
    displays, viewed = np.arange(len(chunk.page)), chunk.beside["document_id"]
    told = (chunk.beside["delay"] >= 0) & (promoted.places(viewed) >= 0)
    documents = np.insert(np.where(told, -1, viewed), chunk.beside_offsets[:-1], chunk.page)
    begins = chunk.beside_offsets[:-1] + displays
    ends = {"interest": chunk.after_offsets + displays + 1, "profile": chunk.beside_offsets[1:] + displays + 1}
    columns = {}
    for subject, known in vectors.items():
        places = known.documents.places(documents)
        for name, end in ends.items():
            columns[f"{name}_{subject}"] = _cubed(known.sums(Read(begins, end, places)))
    return columns


def _cubed(met: Sums) -> Bags:
    """The lists of how often ids are met, which is the sum of the confidences with which the pages are about them: the
    weight is 1 for what is met most."""
    lengths = np.diff(met.offsets)
    display, most = np.repeat(np.arange(len(lengths)), lengths), np.zeros(len(lengths), np.int64)
    most[lengths > 0] = np.maximum.reduceat(met.weights, met.offsets[:-1][lengths > 0]) if len(display) else 0
    kept = (met.weights * _RARER >= most[display]) & (most[display] > 0)
    ratio = met.weights[kept] / most[display[kept]]
    offsets = np.append(0, np.cumsum(np.bincount(display[kept], minlength=len(lengths))))
    return Bags(offsets, met.ids[kept], (ratio * ratio * ratio).astype(np.float32))


GROUP = Group(
    scope="time-causal",
    columns=tuple(
        bag(f"{name}_{subject}", f"each {subject} of {pages}", scope, "display")
        for subject in SUBJECTS
        for name, (pages, scope) in _NAMES.items()
    ),
    walk=walk,
)
