"""How often an ad, its document, campaign and advertiser were shown and clicked: the ad CTR baseline, and more."""

from __future__ import annotations

import ibis.expr.types as ir

from pipeline.features.base import Group, Inputs
from pipeline.features.smoothing import AD_KEYS, add_rates
from pipeline.schemas.features import number

_MEANING = {
    "shows": "log(1 + times shown)",
    "rate": "logit of the smoothed click rate",
    "lift": "log of clicks over expected clicks, smoothed",
}


def build(inputs: Inputs) -> ir.Table:
    return add_rates(inputs, AD_KEYS)


GROUP = Group(
    scope="out-of-fold",
    columns=tuple(
        number(f"{key}_{measure}", f"{meaning}, of the {key}")
        for key in AD_KEYS
        for measure, meaning in _MEANING.items()
    ),
    build=build,
)
