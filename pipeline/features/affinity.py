"""How close the promoted document is to the page, to what the user viewed before, and to what the user viewed after.

A document is a sparse vector of what it is about (confidence x idf), a user the sum of the documents viewed; two of
them are as close as the cosine of their angle.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import LABELS, Label, weighed
from pipeline.schemas.features import Column, Scope

#: side -> (what it is, labels that are compared, scope).
_SIDES: dict[str, tuple[str, tuple[Label, ...], Scope]] = {
    "page": ("the page", ("category", "topic", "entity"), "static"),
    "user": ("the pages that the user viewed before", LABELS, "time-causal"),
    "later": ("the pages that the user viewed after", LABELS, "future"),
}
_PAIRS = [(side, label) for side, (_, labels, _) in _SIDES.items() for label in labels]


def build(inputs: Inputs) -> ir.Table:
    """All labels share one table of vectors and all sides one of profiles, since joins are what costs."""
    vectors = inputs.once(_vectors(inputs))
    squares = inputs.once(
        vectors.group_by("document_id").aggregate(
            **{f"ad_{label}_square": _squared(vectors, "weight", label) for label in LABELS}
        )
    )
    profiles = _profiles(inputs, vectors)
    lengths = profiles.group_by("display_id").aggregate(
        **{f"{side}_{label}_square": _squared(profiles, side, label) for side, label in _PAIRS}
    )
    table = look_up(inputs.impressions, _products(inputs.impressions, vectors, profiles), {"row": "row"})
    table = look_up(table, lengths, {"display_id": "display_id"})
    table = look_up(table, squares, {"ad_document_id": "document_id"})
    return table.mutate(**{f"{side}_ad_{label}": _cosine(table, side, label) for side, label in _PAIRS})


def _vectors(inputs: Inputs) -> ir.Table:
    """document_id, label (its place in LABELS), key (an id of all labels' ids), weight: all documents' vectors."""
    parts = []
    for place, label in enumerate(LABELS):
        one = weighed(inputs, label)
        key = one.id.cast("int64") * len(LABELS) + place
        parts.append(one.select("document_id", label=ibis.literal(place, "int8"), key=key, weight=one.weight))
    return ibis.union(*parts)


def _profiles(inputs: Inputs, vectors: ir.Table) -> ir.Table:
    """display_id, label, key, and a weight for each side: the sums of the documents read there, 0 for none."""
    pages = inputs.impressions.filter(inputs.impressions.first & inputs.impressions.document_id.notnull())
    pages = pages.select("display_id", "document_id", side=ibis.literal("page"))
    views = inputs.views
    views = views.select("display_id", "document_id", side=ibis.ifelse(views.delay < 0, "user", "later"))
    read = pages.union(views).inner_join(vectors, "document_id")
    sums = {side: read.weight.sum(where=read.side == side).fill_null(0).cast("int64") for side in _SIDES}
    return read.group_by(["display_id", "label", "key"]).aggregate(**sums)


def _products(impressions: ir.Table, vectors: ir.Table, profiles: ir.Table) -> ir.Table:
    """row -> SIDE_LABEL_product: the scalar products of the ad's vector and each side's, null without a common key."""
    ads = impressions.select("row", "display_id", document_id="ad_document_id")
    ads = ads.inner_join(vectors, "document_id").select("row", "display_id", "key", "weight")
    both = ads.inner_join(profiles, ["display_id", "key"])
    return both.group_by("row").aggregate(
        **{
            f"{side}_{label}_product": (both.weight * both[side])
            .sum(where=both.label == LABELS.index(label))
            .cast("float64")
            for side, label in _PAIRS
        }
    )


def _squared(vectors: ir.Table, weight: str, label: Label) -> ir.Value:
    """The squared length of a vector, in whole units; null or 0 if it has no such label."""
    return (vectors[weight] * vectors[weight]).sum(where=vectors.label == LABELS.index(label)).cast("float64")


def _cosine(table: ir.Table, side: str, label: Label) -> ir.Value:
    """0 if the two have nothing in common, null if either is about nothing."""
    length = (table[f"{side}_{label}_square"].nullif(0) * table[f"ad_{label}_square"].nullif(0)).sqrt()
    return table[f"{side}_{label}_product"].fill_null(0) / length


def _column(side: str, label: Label) -> Column:
    what, _, scope = _SIDES[side]
    meaning = f"cosine of the {label} vectors (confidence x idf) of {what} and of the promoted document"
    return Column(name=f"{side}_ad_{label}", kind="numeric", dtype="float32", meaning=meaning, scope=scope)


GROUP = Group(
    scope="time-causal",
    columns=tuple(_column(side, label) for side, label in _PAIRS),
    build=build,
)
