"""What the user viewed before the display and in the hour after it: documents, what they are known by, where from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled
from pipeline.core.engine import Engine
from pipeline.features.base import Group, Inputs
from pipeline.features.displays import Bags, Chunk, Columns, Walk
from pipeline.features.subjects import UNIT, Label, about, in_units
from pipeline.features.vectors import Read, Vectors, read_vectors
from pipeline.schemas.features import Scope, bag, number

#: How many of the latest views before the display make the fields, and of the first ones after it.
LATEST = 20
HOUR_MS = 3_600_000
_LABELS: tuple[Label, ...] = ("source", "publisher", "category", "topic")
_FIELDS: dict[str, tuple[str, Scope]] = {
    "viewed": (f"the {LATEST} pages that the user viewed last before the display", "time-causal"),
    "next": (f"the first {LATEST} pages that the user viewed within the hour after the display", "future"),
}
_SIDES: dict[str, Scope] = {"before": "time-causal", "after": "future"}
#: What brought the user to a page -> traffic_source.
_TRAFFIC = {"internal": 1, "search": 2, "social": 3}
#: Counts of views: name -> (side, meaning).
_COUNTS = {f"views_{side}": (side, f"pages that the user viewed {side} the display") for side in _SIDES} | {
    f"{traffic}_{side}": (side, f"pages that the user reached {side} the display, traffic source {traffic}")
    for side in _SIDES
    for traffic in _TRAFFIC
}


def walk(engine: Engine, inputs: Inputs) -> Walk:
    vectors = {label: read_vectors(engine, in_units(about(inputs, label))) for label in _LABELS}
    return Walk(lambda chunk: {**_lists(vectors, chunk), **_counts(chunk)})


def _lists(vectors: dict[Label, Vectors], chunk: Chunk) -> Columns:
    """For each field the documents, and what they are known by: the weight is the number of views of documents with
    that id, or the sum of their confidences."""
    delay, document = chunk.beside["delay"], chunk.beside["document_id"]
    after, columns = chunk.after_offsets, {}
    for field, borders in {
        "viewed": (chunk.beside_offsets[:-1], after),
        "next": (after, after + _within(chunk, HOUR_MS)),
    }.items():
        offsets = np.zeros(len(after) + 1, np.int64)
        found, times = np.empty(LATEST * len(after), np.int64), np.empty(LATEST * len(after), np.int32)
        _choose(*borders, delay, document, LATEST, offsets, found, times)
        found, times = found[: offsets[-1]], times[: offsets[-1]]
        columns[f"{field}_document"] = Bags(offsets, found.astype(np.uint32), times.astype(np.float32))
        for label, known in vectors.items():
            sums = known.sums(Read(offsets[:-1], offsets[1:], known.documents.places(found), times))
            columns[f"{field}_{label}"] = Bags(sums.offsets, sums.ids, (sums.weights / UNIT).astype(np.float32))
    return columns


def _within(chunk: Chunk, time: int) -> NDArray[np.int64]:
    """(D,): the number of views within some time after each display."""
    delay = chunk.beside["delay"]
    return np.bincount(chunk.display_of_beside[(delay >= 0) & (delay < time)], minlength=len(chunk.page))


def _counts(chunk: Chunk) -> Columns:
    """The numbers of views, as _COUNTS names them."""
    columns, delay, source = {}, chunk.beside["delay"], chunk.beside["traffic_source"]
    for side, chosen in {"before": delay < 0, "after": delay >= 0}.items():
        traffic = {f"{name}_{side}": chosen & (source == number) for name, number in _TRAFFIC.items()}
        for name, those in {f"views_{side}": chosen, **traffic}.items():
            counts = np.bincount(chunk.display_of_beside[those], minlength=len(chunk.page))
            columns[name] = np.log(counts + 1).astype(np.float32)[chunk.display_of_row]
    return columns


@compiled
def _choose(
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    delay: NDArray[np.int64],
    document: NDArray[np.int64],
    most: int,
    offsets: NDArray[np.int64],
    documents: NDArray[np.int64],
    times: NDArray[np.int32],
) -> None:
    """The `most` views of each display that are nearest to it, as documents, ascending, and how often each comes.

    begins, ends: (D,), the views of each display on one side of it, by ascending delay and document. Of those with
    equal delay the lower documents count as nearer.
    """
    end = 0
    for d in range(len(begins)):
        low, high, start = begins[d], ends[d], end
        ties = 0  # views that are as far away as the first one, before it: they have lower documents
        if high - low > most and delay[low] >= 0:
            high = low + most
        elif high - low > most:
            low = high - most
            while low - ties > begins[d] and delay[low - ties - 1] == delay[low]:
                ties += 1
        for v in range(low, high):
            one = document[v - ties if delay[v] == delay[low] else v]
            at = end
            while at > start and documents[at - 1] > one:
                at -= 1
            if at > start and documents[at - 1] == one:
                times[at - 1] += 1
                continue
            for after in range(end, at, -1):
                documents[after], times[after] = documents[after - 1], times[after - 1]
            documents[at], times[at] = one, 1
            end += 1
        offsets[d + 1] = end


GROUP = Group(
    scope="time-causal",
    columns=(
        *(
            bag(f"{field}_{label}", f"{label} of {which}", scope, "display")
            for field, (which, scope) in _FIELDS.items()
            for label in ("document", *_LABELS)
        ),
        *(number(name, f"log(1 + {meaning})", _SIDES[side], "display") for name, (side, meaning) in _COUNTS.items()),
    ),
    walk=walk,
)
