"""Whether the user has viewed the promoted document: after the display, that is often the click itself.

The competition's page views hold it, though nothing that runs in production could know it.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.schemas.features import Column

NOBODY, OTHERS, BEFORE, AFTER = range(4)


def build(inputs: Inputs) -> ir.Table:
    views = inputs.views
    own = views.group_by(["display_id", "document_id"]).aggregate(
        after=views.delay.min(where=views.delay >= 0), before=views.delay.max(where=views.delay < 0)
    )
    table = look_up(inputs.impressions, own, {"display_id": "display_id", "ad_document_id": "document_id"})
    table = look_up(table, inputs.once(inputs.document_views), {"ad_document_id": "document_id"})
    state = ibis.cases(
        (table.after.notnull(), AFTER), (table.before.notnull(), BEFORE), (table.views.notnull(), OTHERS), else_=NOBODY
    )
    return table.mutate(
        leak=state,
        leak_delay=(table.after / 1000 + 1).ln(),
        ad_document_views=(table.views.fill_null(0) + 1).ln(),
    )


GROUP = Group(
    scope="future",
    columns=(
        Column(
            name="leak",
            kind="categorical",
            dtype="uint8",
            meaning="the promoted document was viewed by: 0 nobody, 1 others, 2 the user before, 3 the user after",
        ),
        Column(name="leak_delay", kind="numeric", dtype="float32", meaning="log seconds from the display to that view"),
        Column(name="ad_document_views", kind="numeric", dtype="float32", meaning="log(1 + views) of the document"),
    ),
    build=build,
)
