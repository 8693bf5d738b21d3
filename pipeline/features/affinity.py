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
            **{f"ad_{label}_square": _squared(vectors, label) for label in LABELS}
        )
    )
    profiles = _profiles(inputs, vectors)
    lengths = _by(profiles.mutate(value=profiles.weight * profiles.weight), "display_id", "square")
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
        parts.append(
            one.select("document_id", label=ibis.literal(place, "int8"), key=key.cast("uint32"), weight=one.weight)
        )
    return ibis.union(*parts)


def _profiles(inputs: Inputs, vectors: ir.Table) -> ir.Table:
    """display_id, side (its place in _SIDES), key, weight: the sums of the documents read there.

    Millions of them are held at once, so they are narrow: whole numbers below 2^53, as float64, add up exactly.
    """
    pages = inputs.impressions.filter(inputs.impressions.first & inputs.impressions.document_id.notnull())
    pages = pages.select("display_id", "document_id", side=ibis.literal(0, "int8"))
    views = inputs.views
    views = views.select("display_id", "document_id", side=ibis.ifelse(views.delay < 0, 1, 2).cast("int8"))
    read = pages.union(views).inner_join(vectors, "document_id")
    return read.group_by(["display_id", "side", "key"]).aggregate(weight=read.weight.cast("float64").sum())


def _products(impressions: ir.Table, vectors: ir.Table, profiles: ir.Table) -> ir.Table:
    """row -> SIDE_LABEL_product: the scalar products of the ad's vector and each side's, null without a common key."""
    ads = impressions.select("row", "display_id", document_id="ad_document_id")
    ads = ads.inner_join(vectors, "document_id").select("row", "display_id", "key", own="weight")
    both = ads.inner_join(profiles, ["display_id", "key"])
    return _by(both.mutate(value=both.own * both.weight), "row", "product")


def _by(table: ir.Table, by: str, name: str) -> ir.Table:
    """by -> SIDE_LABEL_NAME: the sums of `value` for each side and label, null without any."""
    sums = table.mutate(label=(table.key % len(LABELS)).cast("int8"))
    sums = sums.group_by([by, "side", "label"]).aggregate(value=sums.value.sum())
    sides = list(_SIDES)
    return sums.group_by(by).aggregate(
        **{
            f"{side}_{label}_{name}": sums.value.max(
                where=(sums.side == sides.index(side)) & (sums.label == LABELS.index(label))
            )
            for side, label in _PAIRS
        }
    )


def _squared(vectors: ir.Table, label: Label) -> ir.Value:
    """The squared length of a vector, in whole units; null if it has no such label."""
    return (vectors.weight * vectors.weight).sum(where=vectors.label == LABELS.index(label)).cast("float64")


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
    shorter=2,  # all that a display's user viewed, by all that it is about
)
