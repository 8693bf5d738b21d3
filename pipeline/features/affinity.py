"""How close the promoted document is to the page and to what the user viewed before, by topics and categories."""

from __future__ import annotations

import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import SUBJECTS, UNIT, Subject, weighed
from pipeline.schemas.features import Column


def build(inputs: Inputs) -> ir.Table:
    table = inputs.impressions
    before = inputs.views.filter(inputs.views.delay < 0)
    for subject in SUBJECTS:
        documents = inputs.once(weighed(inputs, subject))
        lengths = inputs.once(_lengths(documents, "document_id"))
        pages = inputs.impressions.filter(inputs.impressions.first).select("display_id", "document_id")
        for side, read in {"page": pages, "user": before}.items():
            table = _add_cosine(table, f"{side}_ad_{subject}", read, documents, lengths)
    return table


def _lengths(vectors: ir.Table, key: str) -> ir.Table:
    """key -> square: the squared length of each sparse vector, in whole units."""
    return vectors.group_by(key).aggregate(square=(vectors.weight * vectors.weight).sum().cast("float64"))


def _add_cosine(table: ir.Table, name: str, read: ir.Table, documents: ir.Table, lengths: ir.Table) -> ir.Table:
    """Add the cosine between all that was read at a display (display_id, document_id) and the ad's document; null if
    either is about nothing."""
    joined = read.inner_join(documents, "document_id").select("display_id", "id", "weight")
    profile = joined.group_by(["display_id", "id"]).aggregate(weight=joined.weight.sum().cast("int64"))
    ads = table.select("row", "display_id", document_id="ad_document_id")
    ads = ads.inner_join(documents, "document_id").select("row", "display_id", "id", ad_weight="weight")
    both = ads.inner_join(profile, ["display_id", "id"])
    products = both.group_by("row").aggregate(
        product=(both.ad_weight // 10 * (both.weight // 10)).sum().cast("float64") * 100
    )
    table = look_up(table, products.rename({f"{name}_product": "product"}), {"row": "row"})
    table = look_up(table, _lengths(profile, "display_id").rename(_read="square"), {"display_id": "display_id"})
    table = look_up(table, lengths.rename(_ad="square"), {"ad_document_id": "document_id"})
    cosine = table[f"{name}_product"].fill_null(0) / (table["_read"].sqrt() * table["_ad"].sqrt() + UNIT)
    return table.mutate(**{name: cosine}).drop(f"{name}_product", "_read", "_ad")


_SIDES = {"page": "the page", "user": "the pages that the user viewed before"}


def _column(side: str, subject: Subject) -> Column:
    meaning = f"cosine of the {subject} vectors (confidence x idf) of {_SIDES[side]} and of the promoted document"
    return Column(name=f"{side}_ad_{subject}", kind="numeric", dtype="float32", meaning=meaning)


GROUP = Group(
    scope="time-causal",
    columns=tuple(_column(side, subject) for subject in SUBJECTS for side in _SIDES),
    build=build,
)
