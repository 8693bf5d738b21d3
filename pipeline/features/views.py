"""What the user viewed before the display and in the hour after it: documents, what they are known by, where from."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import UNIT, Label, about, bags, list_column, look_up_bags
from pipeline.schemas.features import Column, Scope

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


def build(inputs: Inputs) -> ir.Table:
    views = inputs.views
    side = ibis.window(group_by=["display_id", views.delay < 0], order_by=[views.delay.abs(), views.document_id])
    near = views.mutate(nearness=ibis.row_number().over(side))
    near = near.filter(near.nearness < LATEST)
    lists = []
    for field, chosen in {"viewed": near.delay < 0, "next": (near.delay >= 0) & (near.delay < HOUR_MS)}.items():
        documents = near.filter(chosen).select("display_id", "document_id")
        counted = documents.group_by(["display_id", "document_id"]).aggregate(times=documents.count())
        lists += [bag.rename({f"{field}_{label}": "bag"}) for label, bag in _bags(inputs, counted).items()]
    table = look_up_bags(inputs.impressions, lists)
    table = look_up(table, _counts(views), {"display_id": "display_id"})
    return table.mutate(**{name: (table[name].fill_null(0) + 1).ln() for name in _COUNTS})


def _counts(views: ir.Table) -> ir.Table:
    """display_id -> the numbers of views, as _COUNTS names them."""
    counts = {}
    for side, chosen in {"before": views.delay < 0, "after": views.delay >= 0}.items():
        counts[f"views_{side}"] = views.count(where=chosen)
        for traffic, number in _TRAFFIC.items():
            counts[f"{traffic}_{side}"] = views.count(where=chosen & (views.traffic_source == number))
    return views.group_by("display_id").aggregate(**counts)


def _bags(inputs: Inputs, counted: ir.Table) -> dict[str, ir.Table]:
    """For each label display_id -> bag: a list of {id, weight}, the weight the number of views of documents with that
    id, or the sum of their confidences; from display_id, document_id, times."""
    found: dict[str, ir.Table] = {
        "document": counted.select("display_id", id=counted.document_id, weight=counted.times * UNIT)
    }
    for label in _LABELS:
        known = about(inputs, label)
        known = inputs.once(known.mutate(weight=(known.weight * UNIT).round().cast("int64")))
        joined = counted.inner_join(known, "document_id")
        found[label] = joined.select("display_id", "id", weight=joined.times * joined.weight)
    totals: dict[str, ir.Table] = {}
    for name, rows in found.items():
        total = rows.group_by(["display_id", "id"]).aggregate(weight=(rows.weight.sum() / UNIT).cast("float32"))
        totals[name] = bags(total.mutate(id=total.id.cast("uint32")), "display_id", "bag")
    return totals


GROUP = Group(
    scope="time-causal",
    columns=(
        *(
            list_column(f"{field}_{label}", f"{label} of {which}", scope)
            for field, (which, scope) in _FIELDS.items()
            for label in ("document", *_LABELS)
        ),
        *(
            Column(
                name=name,
                kind="numeric",
                dtype="float32",
                meaning=f"log(1 + {meaning})",
                per="display",
                scope=_SIDES[side],
            )
            for name, (side, meaning) in _COUNTS.items()
        ),
    ),
    build=build,
    shorter=2,  # ten lists in each row
)
