"""What the user viewed before the display: documents, their sources, publishers, categories and topics."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import SUBJECTS, about, bags
from pipeline.schemas.features import MULTI_TYPE, Column

#: How many of the latest views make the fields.
LATEST = 20
_LABELS = ("document", "source", "publisher", *SUBJECTS)


def build(inputs: Inputs) -> ir.Table:
    before = inputs.views.filter(inputs.views.delay < 0)
    latest = ibis.window(group_by="display_id", order_by=[before.delay.desc(), before.document_id])
    before = before.mutate(age=ibis.row_number().over(latest))
    before = before.filter(before.age < LATEST).select("display_id", "document_id")
    table = inputs.impressions
    for label in _LABELS:
        table = look_up(table, _viewed(inputs, before, label), {"display_id": "display_id"})
    counts = before.group_by("display_id").aggregate(n=before.count())
    table = look_up(table, counts, {"display_id": "display_id"})
    return table.mutate(views_before=(table.n.fill_null(0) + 1).ln())


def _viewed(inputs: Inputs, before: ir.Table, label: str) -> ir.Table:
    """display_id -> viewed_LABEL: a list of {id, weight}, the weight its count, or the sum of its confidences."""
    if label == "document":
        found = before.select("display_id", id="document_id", confidence=ibis.literal(1, "int64"))
    elif label in ("source", "publisher"):
        meta = inputs.table("documents_meta")
        known = meta.filter(meta[f"{label}_id"].notnull()).select("document_id", id=f"{label}_id")
        found = before.inner_join(inputs.once(known), "document_id")
        found = found.select("display_id", "id", confidence=ibis.literal(1, "int64"))
    else:
        known = about(inputs, label)  # type: ignore[arg-type]
        known = known.select("document_id", "id", confidence=(known.weight * 10_000).round().cast("int64"))
        found = before.inner_join(inputs.once(known), "document_id").select("display_id", "id", "confidence")
    total = found.group_by(["display_id", "id"]).aggregate(weight=found.confidence.sum().cast("float32"))
    return bags(total.mutate(id=total.id.cast("uint32")), "display_id", f"viewed_{label}")


GROUP = Group(
    scope="time-causal",
    columns=(
        *(
            Column(
                name=f"viewed_{label}",
                kind="multi",
                dtype=MULTI_TYPE,
                meaning=f"{label} of the {LATEST} pages that the user viewed last",
                per="display",
            )
            for label in _LABELS
        ),
        Column(
            name="views_before",
            kind="numeric",
            dtype="float32",
            meaning=f"log(1 + pages that the user viewed before), of the last {LATEST}",
            per="display",
        ),
    ),
    build=build,
)
