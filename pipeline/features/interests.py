"""What the user is interested in: which share of the pages viewed is about each category and topic.

Shares, not numbers of views: ten pages about a thing do not make its ads ten times as attractive as one page does.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import SUBJECTS, UNIT, Subject, about, bags, list_column
from pipeline.schemas.features import Scope

#: name -> (pages, scope).
_NAMES: dict[str, tuple[str, Scope]] = {
    "interest": ("the pages that the user viewed before the display, and its own page", "time-causal"),
    "profile": ("the pages that the user viewed before and after the display, and its own page", "future"),
}
#: Shares below one in so many are left out: most are, and they say next to nothing.
_LEAST = 50


def build(inputs: Inputs) -> ir.Table:
    read = _read(inputs)
    table = inputs.impressions
    for subject in SUBJECTS:
        shares = _shares(inputs, read, subject)
        for name in _NAMES:
            known = shares.filter(shares[name].notnull()).select("display_id", "id", weight=shares[name])
            bag = bags(known, "display_id", f"{name}_{subject}")
            table = look_up(table, bag, {"display_id": "display_id"})
    return table


def _read(inputs: Inputs) -> ir.Table:
    """display_id, document_id, before: the pages around each display.

    After it those that are promoted somewhere are left out: they tell what was clicked (group `leak`).
    """
    pages = inputs.impressions.filter(inputs.impressions.first & inputs.impressions.document_id.notnull())
    promoted = inputs.once(inputs.table("promoted_content").select("document_id").distinct())
    views = inputs.views
    parts = {True: [pages, views.filter(views.delay < 0)]}
    parts[False] = [views.filter(views.delay >= 0).anti_join(promoted, "document_id")]
    return ibis.union(
        *(part.select("display_id", "document_id", before=side) for side, both in parts.items() for part in both)
    )


def _shares(inputs: Inputs, read: ir.Table, subject: Subject) -> ir.Table:
    """display_id, id (uint32), and for each of _NAMES the share (float32) of the confidences that fall on the id, null
    if it is too small."""
    known = about(inputs, subject)
    known = known.select("document_id", id=known.id.cast("uint32"), weight=(known.weight * UNIT).round().cast("int64"))
    met = read.inner_join(inputs.once(known), "document_id")
    by_id = met.group_by(["display_id", "id"]).aggregate(
        interest=met.weight.sum(where=met.before).fill_null(0).cast("int64"), profile=met.weight.sum().cast("int64")
    )
    total = by_id.group_by("display_id").aggregate(
        **{f"all_{name}": by_id[name].sum().cast("int64") for name in _NAMES}
    )
    both = by_id.inner_join(total, "display_id")
    shares = {}
    for name in _NAMES:
        part, whole = both[name], both[f"all_{name}"].nullif(0)
        share = part.cast("float64") / whole.cast("float64")
        shares[name] = ibis.ifelse(part * _LEAST >= whole, share, ibis.null()).cast("float32")
    return both.select("display_id", "id", **shares)


GROUP = Group(
    scope="time-causal",
    columns=tuple(
        list_column(f"{name}_{subject}", f"share of each {subject} in {pages}", scope)
        for subject in SUBJECTS
        for name, (pages, scope) in _NAMES.items()
    ),
    build=build,
    shorter=2,  # four lists in each row
)
