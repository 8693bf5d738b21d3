"""How close the promoted document is to the page, to what the user viewed before, and to what the user viewed after.

A document is a sparse vector of what it is about (confidence x idf), a user the sum of the documents viewed; two of
them are as close as the cosine of their angle.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.engine import Engine
from pipeline.features.base import Group, Inputs
from pipeline.features.displays import Chunk, Columns, Walk
from pipeline.features.subjects import LABELS, Label, weighed
from pipeline.features.vectors import Read, Vectors, read_vectors
from pipeline.schemas.features import Column, Scope, number

#: side -> (what it is, labels that are compared, scope).
_SIDES: dict[str, tuple[str, tuple[Label, ...], Scope]] = {
    "page": ("the page", ("category", "topic", "entity"), "static"),
    "user": ("the pages that the user viewed before", LABELS, "time-causal"),
    "later": ("the pages that the user viewed after", LABELS, "future"),
}
_PAIRS = [(side, label) for side, (_, labels, _) in _SIDES.items() for label in labels]


def walk(engine: Engine, inputs: Inputs) -> Walk:
    vectors = {label: read_vectors(engine, weighed(inputs, label)) for label in LABELS}
    return Walk(lambda chunk: _compare(vectors, chunk))


def _compare(vectors: dict[Label, Vectors], chunk: Chunk) -> Columns:
    """The columns of a chunk: 0 if the two have nothing in common, NaN if either is about nothing."""
    displays, after, viewed = np.arange(len(chunk.page)), chunk.after_offsets, chunk.beside["document_id"]
    read = {
        "page": (displays, displays + 1, chunk.page),
        "user": (chunk.beside_offsets[:-1], after, viewed),
        "later": (after, chunk.beside_offsets[1:], viewed),
    }
    columns = {}
    for side, label in _PAIRS:
        known, (begins, ends, documents) = vectors[label], read[side]
        pages = Read(begins, ends, known.documents.places(documents))
        ads = known.documents.places(chunk.ad_document)
        columns[f"{side}_ad_{label}"] = known.cosines(pages, chunk.offsets, ads)
    return columns


def _column(side: str, label: Label) -> Column:
    what, _, scope = _SIDES[side]
    meaning = f"cosine of the {label} vectors (confidence x idf) of {what} and of the promoted document"
    return number(f"{side}_ad_{label}", meaning, scope)


GROUP = Group(
    scope="time-causal",
    columns=tuple(_column(side, label) for side, label in _PAIRS),
    walk=walk,
)
