"""Where an ad is clicked more than elsewhere: its click rate at the place and time of the display against its own."""

from __future__ import annotations

from collections.abc import Iterator

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import LookUp, look_up, look_up_all
from pipeline.features.base import Group, Inputs
from pipeline.features.smoothing import AD_KEYS, counts, look_up_known, over_expected, sums, with_prior
from pipeline.schemas.features import Column

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
    """NAME_by_PLACE: log of (clicks + s b) / (e + s b), where the shows of an ad (a campaign, ...) at a place were
    expected to bring e clicks by its lift everywhere (see `smoothing`): so it is smoothed towards the ad's own rate.
    """
    table = inputs.impressions
    for place in PLACES:
        table = _at(inputs, table, place)
    table = look_up_all(with_prior(inputs, table), [*_alone(inputs), *_by_place(inputs)])
    table = table.mutate(**{f"{name}_everywhere": over_expected(inputs, table, name) for name in AD_KEYS})
    crosses = ((f"{name}_by_{place}", table[f"{name}_everywhere"]) for name in AD_KEYS for place in PLACES)
    return table.mutate(**{cross: over_expected(inputs, table, cross, lift).ln() for cross, lift in crosses})


def _alone(inputs: Inputs) -> Iterator[LookUp]:
    for name, key in AD_KEYS.items():
        counted = inputs.once(counts(inputs.history, [key], inputs.smoothing.folds))
        yield look_up_known(inputs, name, counted, [key])


def _by_place(inputs: Inputs) -> Iterator[LookUp]:
    """The coarser counts (of a campaign at a place, ...) are sums over its ads: history is counted once a place."""
    ads = inputs.table("promoted_content").rename(ad_document_id="document_id")
    for place in PLACES:
        history = _at(inputs, inputs.history, place)
        by_ad = inputs.once(counts(history, ["ad_id", place], inputs.smoothing.folds))
        joined = by_ad.inner_join(ads, "ad_id")
        for name, key in AD_KEYS.items():
            counted = by_ad if name == "ad" else inputs.once(sums(joined, [key, place, "fold"]))
            yield look_up_known(inputs, f"{name}_by_{place}", counted, [key, place])


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
        Column(
            name=f"{name}_by_{place}",
            kind="numeric",
            dtype="float32",
            meaning=f"log of clicks over what the {name}'s lift lets expect, smoothed, by {meaning}",
        )
        for name in AD_KEYS
        for place, meaning in PLACES.items()
    ),
    build=build,
)
