"""The rivals of an ad in its display: which they are, what the user viewed of them, and how its click rates stand
against theirs."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.smoothing import AD_KEYS, add_rates
from pipeline.schemas.features import MULTI_TYPE, Column

#: What the multi-valued fields list: name -> key column.
_LISTED = {name: key for name, key in AD_KEYS.items() if name != "advertiser"}


def build(inputs: Inputs) -> ir.Table:
    """rank: 1 for the display's best lift, ties share it. gap: the lift less that of the best rival, 0 without one."""
    table = _add_viewed(inputs, _add_lists(add_rates(inputs, AD_KEYS)))
    features = {}
    for key in AD_KEYS:
        lift = table[f"{key}_lift"]
        best_first = ibis.window(group_by="display_id", order_by=[lift.desc(), table.row])
        is_best = ibis.row_number().over(best_first) == 0
        rival = ibis.ifelse(is_best, lift.lead().over(best_first), lift.first().over(best_first))
        features[f"{key}_rank"] = ibis.rank().over(ibis.window(group_by="display_id", order_by=lift.desc())) + 1
        features[f"{key}_gap"] = (lift - rival).fill_null(0)
    return table.mutate(rivals=table.ads.cast("int16") - 1, **features)


def _add_lists(table: ir.Table) -> ir.Table:
    """Add for each name `rival_NAME`: the other ads' key, those that are known, in the order of the ads."""
    ad = ibis.struct({key: table[key] for key in _LISTED.values()})  # the id of the ad first: it sorts them
    shown = table.group_by("display_id").aggregate(ad.collect().name("shown"))
    table = look_up(table, shown.mutate(shown=shown.shown.sort()), {"display_id": "display_id"})

    def rivals(key: str) -> ir.Value:
        others = table.shown.filter(lambda other, own=table.ad_id: (other.ad_id != own) & other[key].notnull())
        return others.map(lambda other: ibis.struct({"id": other[key], "weight": ibis.literal(1, "float32")}))

    return table.mutate(**{f"rival_{name}": rivals(key) for name, key in _LISTED.items()}).drop("shown")


def _add_viewed(inputs: Inputs, table: ir.Table) -> ir.Table:
    """Add of how many rivals the user viewed the document before and after the display."""
    views = inputs.views
    viewed = views.group_by(["display_id", "document_id"]).aggregate(
        before=(views.delay < 0).any(), after=(views.delay >= 0).any()
    )
    table = look_up(table, viewed, {"display_id": "display_id", "ad_document_id": "document_id"})
    flags = {when: table[when].fill_null(False).cast("int64") for when in ("before", "after")}
    display = ibis.window(group_by="display_id")
    return table.mutate(**{f"rivals_viewed_{when}": flag.sum().over(display) - flag for when, flag in flags.items()})


def _number(name: str, meaning: str, scope: str | None = None, per: str = "impression") -> Column:
    return Column(name=name, kind="numeric", dtype="float32", meaning=meaning, scope=scope, per=per)  # type: ignore[arg-type]


GROUP = Group(
    scope="out-of-fold",
    columns=(
        _number("rivals", "other ads in the display", "static", "display"),
        *(
            Column(name=f"rival_{name}", kind="multi", dtype=MULTI_TYPE, meaning=f"{key} of each rival", scope="static")
            for name, key in _LISTED.items()
        ),
        _number("rivals_viewed_before", "rivals whose document the user viewed before the display", "time-causal"),
        _number("rivals_viewed_after", "rivals whose document the user viewed after the display", "future"),
        *(
            column
            for key in AD_KEYS
            for column in (
                _number(f"{key}_rank", f"rank of the {key}'s lift, 1 = best"),
                _number(f"{key}_gap", f"the {key}'s lift less the best rival's"),
            )
        ),
    ),
    build=build,
)
