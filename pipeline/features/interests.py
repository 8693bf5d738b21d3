"""What the user is interested in: the categories and topics of the pages viewed, in proportion to the cube of how often
each is met.

Not to how often: views scatter around a few interests, so what is met half as often as another is far less than half as
likely to be one. Nor does it count how many pages there are: ten about a thing do not make its ads ten times as
attractive as one.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import SUBJECTS, UNIT, Subject, about, bags, list_column, look_up_bags
from pipeline.schemas.features import Scope

#: name -> (pages, scope).
_NAMES: dict[str, tuple[str, Scope]] = {
    "interest": ("the pages that the user viewed before the display, and its own page", "time-causal"),
    "profile": ("the pages that the user viewed before and after the display, and its own page", "future"),
}
#: What is met so many times less often than what is met most is left out, and most is: its cube is next to nothing.
_RARER = 4


def build(inputs: Inputs) -> ir.Table:
    read = _read(inputs)
    lists = []
    for subject in SUBJECTS:
        weights = _weights(inputs, read, subject)
        for name in _NAMES:
            known = weights.filter(weights[name].notnull()).select("display_id", "id", weight=weights[name])
            lists.append(bags(known, "display_id", f"{name}_{subject}"))
    return look_up_bags(inputs.impressions, lists)


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


def _weights(inputs: Inputs, read: ir.Table, subject: Subject) -> ir.Table:
    """display_id, id (uint32), and for each of _NAMES a weight (float32), 1 for what is met most, null for too little.

    How often an id is met is the sum of the confidences with which the pages are about it.
    """
    known = about(inputs, subject)
    known = known.select("document_id", id=known.id.cast("uint32"), weight=(known.weight * UNIT).round().cast("int64"))
    met = read.inner_join(inputs.once(known), "document_id")
    by_id = met.group_by(["display_id", "id"]).aggregate(
        interest=met.weight.sum(where=met.before).fill_null(0).cast("int64"), profile=met.weight.sum().cast("int64")
    )
    most = by_id.group_by("display_id").aggregate(**{f"most_{name}": by_id[name].max() for name in _NAMES})
    both = by_id.inner_join(most, "display_id")
    weights = {}
    for name in _NAMES:
        times, top = both[name], both[f"most_{name}"].nullif(0)
        ratio = times.cast("float64") / top.cast("float64")
        weights[name] = ibis.ifelse(times * _RARER >= top, ratio * ratio * ratio, ibis.null()).cast("float32")
    return both.select("display_id", "id", **weights)


GROUP = Group(
    scope="time-causal",
    columns=tuple(
        list_column(f"{name}_{subject}", f"each {subject} of {pages}", scope)
        for subject in SUBJECTS
        for name, (pages, scope) in _NAMES.items()
    ),
    build=build,
    shorter=2,  # four lists in each row
)
