"""Where an ad is clicked more than elsewhere: its click rate at the place and time of the display against its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import LookUp, look_up, look_up_all
from pipeline.features.base import Group, Inputs
from pipeline.features.smoothing import AD_KEYS, COUNTS, counts, fold, gains, key_of, scale, sums
from pipeline.schemas.features import number

DAY_PART_MS = 4 * 3_600_000
#: What a place (or time) is named -> what it is. `state` holds its country, since their codes repeat.
PLACES = {
    "publisher": "the page's publisher",
    "source": "the page's source",
    "page": "the page",
    "country": "the user's country",
    "state": "the user's country and state",
    "platform": "the user's device",
    "daypart": "four hours of the day",
}


def build(inputs: Inputs) -> ir.Table:
    """NAME_by_PLACE: log of (clicks + s b) / (e + s b), where the shows of an ad (a campaign, ...) at the place were
    expected to bring e clicks by its lift everywhere (see `smoothing`). So it is smoothed towards the ad's own rate.

    Fewer than s shows count nothing: most pairs are that rare, and tell little. What is left is short, holds the values
    themselves, and describes a range of rows at once.
    """
    table = inputs.impressions.mutate(fold=fold(inputs.impressions, inputs.smoothing.folds))
    for place in PLACES:
        table = _at(inputs, table, place)
    table = look_up_all(table, list(_look_ups(inputs)))
    return table.mutate(**{column.name: table[column.name].fill_null(0) for column in GROUP.columns})


def _look_ups(inputs: Inputs) -> Iterator[LookUp]:
    """NAME_by_PLACE of each key at each place, where a row may know enough of it."""
    folds, least = inputs.smoothing.folds, inputs.smoothing.strength / scale(inputs)
    everywhere = _by_names(inputs, counts(inputs.history, ["ad_id"], folds), ["fold"])
    for place in PLACES:
        here = _frequent(inputs, counts(_at(inputs, inputs.history, place), ["ad_id", place], folds), place)
        known = gains(inputs, inputs.once(everywhere), here, ["name", "key"], [place], least)
        for at, (name, key) in enumerate(AD_KEYS.items()):
            by = key_of(inputs, ["key", place])
            own = known.filter(known.name == at).select(*by, **{f"{name}_by_{place}": known.gain})
            yield own, {key: "key"} | {each: each for each in list(by)[1:]}


def _frequent(inputs: Inputs, by_ad: ir.Table, place: str) -> ir.Table:
    """The counts by name, key, place, and fold of those pairs of key and place of which some row may know enough."""
    total = _by_names(inputs, by_ad, [place])
    often = inputs.once(total.filter(total.shows >= inputs.smoothing.strength / scale(replace(inputs, part="history"))))
    return inputs.once(_by_names(inputs, by_ad, [place, "fold"], often))


def _by_names(inputs: Inputs, by_ad: ir.Table, more: list[str], often: ir.Table | None = None) -> ir.Table:
    """The counts of ads by name (its place in AD_KEYS), key, and `more`; only those that are `often` shown.

    A campaign's counts are sums over its ads, so history is counted but once.
    """
    by_ad = inputs.once(by_ad)
    ads = inputs.table("promoted_content").rename(ad_document_id="document_id")
    named = []
    for at, key in enumerate(AD_KEYS.values()):
        counted = by_ad if key == "ad_id" else by_ad.inner_join(ads.filter(ads[key].notnull()), "ad_id")
        named.append(counted.select(*more, *COUNTS, name=ibis.literal(at, "int8"), key=counted[key]))
    table = ibis.union(*named)
    if often is not None:
        table = table.semi_join(often, ["name", "key", more[0]])
    return sums(table, ["name", "key", *more])


def _at(inputs: Inputs, table: ir.Table, place: str) -> ir.Table:
    """Add the column PLACE: which publisher, source, ... the row's display has."""
    if place in ("publisher", "source"):
        meta = inputs.table("documents_meta")
        named = meta.filter(meta[f"{place}_id"].notnull()).select("document_id", **{place: f"{place}_id"})
        return look_up(table, inputs.once(named), {"document_id": "document_id"})
    columns = {
        "page": table.document_id,
        "country": table.country,
        "state": table.country + ibis.literal(">") + table.state,
        "platform": table.platform,
        "daypart": table.timestamp // DAY_PART_MS % 6,
    }
    return table.mutate(**{place: columns[place]})


GROUP = Group(
    scope="out-of-fold",
    columns=tuple(
        number(f"{name}_by_{place}", f"log of clicks over what the {name}'s lift lets expect, smoothed, by {meaning}")
        for name in AD_KEYS
        for place, meaning in PLACES.items()
    ),
    build=build,
)
