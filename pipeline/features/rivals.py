"""The rivals of an ad in its display: how many there are, and how its click rates stand against theirs."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.features.base import Group, Inputs
from pipeline.features.smoothing import AD_KEYS, add_rates
from pipeline.schemas.features import Column


def build(inputs: Inputs) -> ir.Table:
    """rank: 1 for the display's best lift, ties share it. gap: the lift less that of the best rival, 0 without one."""
    table = add_rates(inputs, AD_KEYS)
    features = {}
    for key in AD_KEYS:
        lift = table[f"{key}_lift"]
        best_first = ibis.window(group_by="display_id", order_by=[lift.desc(), table.row])
        is_best = ibis.row_number().over(best_first) == 0
        rival = ibis.ifelse(is_best, lift.lead().over(best_first), lift.first().over(best_first))
        features[f"{key}_rank"] = ibis.rank().over(ibis.window(group_by="display_id", order_by=lift.desc())) + 1
        features[f"{key}_gap"] = (lift - rival).fill_null(0)
    return table.select("row", "first", rivals=table.ads.cast("int16") - 1, **features)


GROUP = Group(
    scope="out-of-fold",
    columns=(
        Column(name="rivals", kind="numeric", dtype="float32", meaning="other ads in the display", per="display"),
        *(
            column
            for key in AD_KEYS
            for column in (
                Column(
                    name=f"{key}_rank", kind="numeric", dtype="float32", meaning=f"rank of the {key}'s lift, 1 = best"
                ),
                Column(
                    name=f"{key}_gap",
                    kind="numeric",
                    dtype="float32",
                    meaning=f"the {key}'s lift less the best rival's",
                ),
            )
        ),
    ),
    build=build,
)
