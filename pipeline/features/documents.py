"""Page and promoted document side by side: how old they are, whether they are alike, how often they are viewed."""

from __future__ import annotations

import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import SUBJECTS, strongest
from pipeline.schemas.features import category, number
from pipeline.schemas.raw import DAY_MS

#: What page and promoted document may have in common.
_SHARED = ("source", "publisher", *SUBJECTS)
_SIDES = {"page": "document_id", "ad": "ad_document_id"}


def build(inputs: Inputs) -> ir.Table:
    table = inputs.impressions
    meta = inputs.table("documents_meta").select("document_id", "source_id", "publisher_id", "publish_time")
    subjects = [inputs.once(strongest(inputs, subject).rename({f"{subject}_id": subject})) for subject in SUBJECTS]
    for side, key in _SIDES.items():
        for known in (meta, *subjects):
            names = {f"{side}_{name}": name for name in known.columns if name != "document_id"}
            table = look_up(table, known.rename(names), {key: "document_id"})
    for side, key in _SIDES.items():
        table = _add_views_before(inputs, table, side, key)
    return table.mutate(
        page_age=_signed_log(table.timestamp - table.page_publish_time),
        ad_age=_signed_log(table.timestamp - table.ad_publish_time),
        page_ad_age=_signed_log(table.ad_publish_time - table.page_publish_time),
        **{f"same_{name}": table[f"page_{name}_id"] == table[f"ad_{name}_id"] for name in _SHARED},
    )


def _signed_log(milliseconds: ir.Value) -> ir.Value:
    """Signed log(1 + days): the first days matter most."""
    days = milliseconds.cast("float64") / DAY_MS
    return days.sign() * (days.abs() + 1).ln()


def _add_views_before(inputs: Inputs, table: ir.Table, side: str, key: str) -> ir.Table:
    """Add `SIDE_views_before`: log(1 + views of the document by anybody on the days before the display's)."""
    table = table.mutate(day=table.timestamp // DAY_MS)
    asked = table.select(document_id=table[key], asked_day=table.day).distinct()
    views = inputs.table("document_views")
    views = asked.inner_join(views, ["document_id", asked.asked_day > views.day])
    counted = views.group_by(["document_id", "asked_day"]).aggregate(before=views.views.sum().cast("int64"))
    table = look_up(table, counted, {key: "document_id", "day": "asked_day"})
    return table.mutate(**{f"{side}_views_before": (table.before.fill_null(0) + 1).ln()}).drop("before", "day")


GROUP = Group(
    scope="static",
    columns=(
        number("page_age", "age of the page, log days", per="display"),
        number("ad_age", "age of the promoted document, log days"),
        number("page_ad_age", "how much later than the page the promoted document was published, log days"),
        *(
            category(
                f"same_{name}",
                "uint8",
                f"whether page and promoted document have the same{' strongest' * (name in SUBJECTS)} {name}",
            )
            for name in _SHARED
        ),
        number("page_views_before", "log(1 + views of the page on the days before)", "time-causal", "display"),
        number("ad_views_before", "log(1 + views of the promoted document on the days before)", "time-causal"),
    ),
    build=build,
)
