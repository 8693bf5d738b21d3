"""Where an ad is clicked more than elsewhere: its click rate at the place and time of the display against its own."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up, look_up_all
from pipeline.features.base import Group, Inputs
from pipeline.features.smoothing import AD_KEYS, counts, look_up_known, over_expected, scale, sums, with_prior
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
    """All rows of the part meet the counts of a place at once, so that these, which are many, are read but once."""
    crosses = [inputs.within(inputs.once(_crosses(inputs, place))).drop("display_id") for place in PLACES]
    return look_up_all(inputs.impressions, [(cross, {"row": "row"}) for cross in crosses])


def _crosses(inputs: Inputs, place: str) -> ir.Table:
    """row -> NAME_by_PLACE of all rows of the part: log of (clicks + s b) / (e + s b), where the shows of an ad (a
    campaign, ...) at the place were expected to bring e clicks by its lift everywhere (see `smoothing`). So it is
    smoothed towards the ad's own rate. Fewer than s shows count nothing: most pairs are that rare, and tell little.
    """
    folds, least = inputs.smoothing.folds, inputs.smoothing.strength / scale(inputs)
    ads = inputs.table("promoted_content").rename(ad_document_id="document_id")
    by_ad = inputs.once(counts(_at(inputs, inputs.history, place), ["ad_id", place], folds))
    lookups = []
    for name, key in AD_KEYS.items():
        everywhere = inputs.once(counts(inputs.history, [key], folds))
        # A campaign's counts at a place are sums over its ads, so history is counted once a place.
        here = by_ad if name == "ad" else sums(by_ad.inner_join(ads, "ad_id"), [key, place, "fold"])
        lookups.append(look_up_known(inputs, name, everywhere, [key]))
        lookups.append(look_up_known(inputs, f"{name}_by_{place}", here, [key, place], least))
    rows = _at(inputs, inputs.history if inputs.part == "history" else inputs.target, place)
    table = look_up_all(with_prior(inputs, rows), lookups)
    lifts = {name: over_expected(inputs, table, name) for name in AD_KEYS}
    crosses = {f"{name}_by_{place}": lift for name, lift in lifts.items()}
    values = {name: over_expected(inputs, table, name, lift).ln().cast("float32") for name, lift in crosses.items()}
    return table.select("row", "display_id", **values)


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
