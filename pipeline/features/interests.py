"""What the user is interested in: which share of the pages viewed is about each category and topic.

Shares, not numbers of views: ten pages about a thing do not make its ads ten times as attractive as one page does.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import SUBJECTS, UNIT, Subject, about, bags
from pipeline.schemas.features import MULTI_TYPE, Column, Scope

#: name -> (pages, scope).
_NAMES: dict[str, tuple[str, Scope]] = {
    "interest": ("the pages that the user viewed before the display, and its own page", "time-causal"),
    "profile": ("the pages that the user viewed before and after the display, and its own page", "future"),
}
#: Pages about nothing that are added to those viewed: a single page says little about a user.
_PRIOR = 2


def build(inputs: Inputs) -> ir.Table:
    read = _read(inputs)
    table = inputs.impressions
    for subject in SUBJECTS:
        shares = _shares(inputs, read, subject)
        for name in _NAMES:
            known = shares.filter(shares[name] > 0).select("display_id", "id", weight=shares[name])
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
    """display_id, id (uint32), and for each of _NAMES the share (float32) of the confidences that fall on the id."""
    known = about(inputs, subject)
    known = known.select("document_id", id=known.id.cast("uint32"), weight=(known.weight * UNIT).round().cast("int64"))
    met = read.inner_join(inputs.once(known), "document_id")
    by_id = met.group_by(["display_id", "id"]).aggregate(
        interest=met.weight.sum(where=met.before).fill_null(0).cast("int64"), profile=met.weight.sum().cast("int64")
    )
    total = by_id.group_by("display_id").aggregate(
        **{f"{name}_total": by_id[name].sum().cast("float64") for name in _NAMES}
    )
    both = by_id.inner_join(total, "display_id")
    shares = {name: (both[name] / (both[f"{name}_total"] + _PRIOR * UNIT)).cast("float32") for name in _NAMES}
    return both.select("display_id", "id", **shares)


GROUP = Group(
    scope="time-causal",
    columns=tuple(
        Column(
            name=f"{name}_{subject}",
            kind="multi",
            dtype=MULTI_TYPE,
            meaning=f"share of each {subject} in {pages}",
            per="display",
            scope=scope,
        )
        for subject in SUBJECTS
        for name, (pages, scope) in _NAMES.items()
    ),
    build=build,
    shorter=2,  # four lists in each row
)
