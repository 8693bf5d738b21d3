"""Whether and when the user viewed the promoted document: right after the display, that is often the click itself.

The competition's page views hold it, though nothing that runs in production could know it.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.schemas.features import category, number

NOBODY, OTHERS, BEFORE, AFTER = range(4)


def build(inputs: Inputs) -> ir.Table:
    table = look_up(
        inputs.impressions, _own(inputs.views), {"display_id": "display_id", "ad_document_id": "document_id"}
    )
    table = look_up(table, inputs.once(inputs.document_views), {"ad_document_id": "document_id"})
    state = ibis.cases(
        (table.after.notnull(), AFTER), (table.before.notnull(), BEFORE), (table.views.notnull(), OTHERS), else_=NOBODY
    )
    return table.mutate(
        leak=state,
        leak_delay=(table.after / 1000 + 1).ln(),
        leak_place=(table.place + 1).ln(),
        leak_times=(table.times_after.fill_null(0) + 1).ln(),
        seen_since=(1 - table.before / 1000).ln(),
        seen_times=(table.times_before.fill_null(0) + 1).ln(),
        ad_document_views=(table.views.fill_null(0) + 1).ln(),
    )


def _own(views: ir.Table) -> ir.Table:
    """display_id, document_id -> before, after: the nearest delays (ms) of the user's views of that document on either
    side of the display; times_before, times_after: their numbers; place: how many views come between display and view.
    """
    in_order = ibis.window(group_by=["display_id", views.delay >= 0], order_by=[views.delay, views.document_id])
    views = views.mutate(place=ibis.row_number().over(in_order))
    after = views.delay >= 0
    return views.group_by(["display_id", "document_id"]).aggregate(
        before=views.delay.max(where=~after),
        after=views.delay.min(where=after),
        times_before=views.count(where=~after),
        times_after=views.count(where=after),
        place=views.place.min(where=after),
    )


GROUP = Group(
    scope="future",
    columns=(
        category(
            "leak",
            "uint8",
            "the promoted document was viewed by: 0 nobody, 1 others, 2 the user before, 3 the user after",
        ),
        number("leak_delay", "log seconds from the display to the user's next view of the promoted document"),
        number("leak_place", "log(1 + pages that the user viewed between the display and that view)"),
        number("leak_times", "log(1 + times that the user viewed the promoted document after the display)"),
        number("seen_since", "log seconds from the user's last view of the promoted document", "time-causal"),
        number("seen_times", "log(1 + times that the user viewed the promoted document before)", "time-causal"),
        number("ad_document_views", "log(1 + views of the promoted document by anybody)"),
    ),
    build=build,
)
