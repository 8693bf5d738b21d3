"""Page and promoted document side by side: how old they are, whether they are alike, how often they are viewed."""

from __future__ import annotations

import ibis.expr.types as ir

from pipeline.core.relational import LookUp, look_up_all
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import SUBJECTS, strongest
from pipeline.schemas.features import category, number
from pipeline.schemas.raw import DAY_MS

#: What page and promoted document may have in common.
_SHARED = ("source", "publisher", *SUBJECTS)
_SIDES = {"page": "document_id", "ad": "ad_document_id"}


def build(inputs: Inputs) -> ir.Table:
    table = inputs.impressions.mutate(day=_day(inputs.impressions))
    meta = inputs.table("documents_meta").select("document_id", "source_id", "publisher_id", "publish_time")
    subjects = [inputs.once(strongest(inputs, subject).rename({f"{subject}_id": subject})) for subject in SUBJECTS]
    lookups: list[LookUp] = []
    for side, key in _SIDES.items():
        for known in (meta, *subjects):
            names = {f"{side}_{name}": name for name in known.columns if name != "document_id"}
            lookups.append((known.rename(names), {key: "document_id"}))
        lookups.append((_views_before(inputs, side, key), {key: "document_id", "day": "asked_day"}))
    table = look_up_all(table, lookups)
    return table.mutate(
        page_age=_signed_log(table.timestamp - table.page_publish_time),
        ad_age=_signed_log(table.timestamp - table.ad_publish_time),
        page_ad_age=_signed_log(table.ad_publish_time - table.page_publish_time),
        **{f"same_{name}": table[f"page_{name}_id"] == table[f"ad_{name}_id"] for name in _SHARED},
        **{f"{side}_views_before": (table[f"{side}_views_before"].fill_null(0) + 1).ln() for side in _SIDES},
    )


def _signed_log(milliseconds: ir.Value) -> ir.Value:
    """Signed log(1 + days): the first days matter most."""
    days = milliseconds.cast("float64") / DAY_MS
    return days.sign() * (days.abs() + 1).ln()


def _views_before(inputs: Inputs, side: str, key: str) -> ir.Table:
    """document_id, asked_day -> SIDE_views_before: its views by anybody on the days before."""
    impressions = inputs.impressions
    asked = impressions.select(document_id=impressions[key], asked_day=_day(impressions)).distinct()
    views = inputs.table("document_views")
    views = asked.inner_join(views, ["document_id", asked.asked_day > views.day])
    return views.group_by(["document_id", "asked_day"]).aggregate(
        **{f"{side}_views_before": views.views.sum().cast("int64")}
    )


def _day(table: ir.Table) -> ir.Value:
    return table.timestamp // DAY_MS


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
