"""Where an ad, or what it is about, is clicked more than elsewhere: its click rate there and then against its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.engine import Engine
from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.displays import Chunk, Columns, Walk, whole_numbers
from pipeline.features.known import Known, pair, read_known, rows_fold
from pipeline.features.smoothing import AD_KEYS, COUNTS, counts, gains, scale, sums
from pipeline.features.subjects import SUBJECTS, strongest
from pipeline.features.vectors import Attribute, Index, Names, read_attribute, read_index
from pipeline.schemas.features import number

Longs = NDArray[np.int64]

#: What an ad is known by -> its column: beside its ids what its document is most about.
KEYS = AD_KEYS | {f"ad_{subject}": f"ad_{subject}" for subject in SUBJECTS}
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
#: Those that a page has, by its document.
_OF_PAGE = ("publisher", "source")
_WITHIN = ">"


@dataclass(frozen=True, slots=True)
class _Place:
    """What rows may know of the keys at each publisher (or source, page, ...): by name of KEYS, by `pair` of the places
    of the two in their indexes."""

    index: Index | Names
    gains: dict[str, Known]


def walk(engine: Engine, inputs: Inputs) -> Walk:
    """NAME_by_PLACE: log of (clicks + s b) / (e + s b), where the shows of an ad (a campaign, ...) at the place were
    expected to bring e clicks by its lift everywhere (see `smoothing`). So it is smoothed towards the ad's own rate.

    Fewer than s shows count nothing: most pairs are that rare, and tell little. What is left is short.
    """
    subjects = {f"ad_{subject}": read_attribute(engine, strongest(inputs, subject), subject) for subject in SUBJECTS}
    keys = {key: read_index(engine, inputs.history[key]) for key in AD_KEYS.values()}
    keys |= {key: Index(np.unique(subject.ids[:-1])) for key, subject in subjects.items()}
    sites = {place: read_attribute(engine, _of_documents(inputs, place), place) for place in _OF_PAGE}
    places = {place: _read_place(engine, inputs, keys, place, known) for place, known in _gains(inputs)}
    more = (*AD_KEYS.values(), "timestamp", "platform")
    return Walk(lambda chunk: _describe(inputs, keys, subjects, sites, places, chunk), more, texts=("country", "state"))


def _describe(
    inputs: Inputs,
    keys: dict[str, Index],
    subjects: dict[str, Attribute],
    sites: dict[str, Attribute],
    places: dict[str, _Place],
    chunk: Chunk,
) -> Columns:
    columns = {}
    display = chunk.display_of_row
    fold = rows_fold(inputs, chunk)
    ids = chunk.more | {key: subject.of(chunk.more["ad_document_id"]) for key, subject in subjects.items()}
    known_keys = {key: index.places(ids[key]) for key, index in keys.items()}
    for name, at_display in _at_displays(sites, chunk).items():
        place = places[name]
        at = place.index.places(at_display)[display]
        for ad, key in KEYS.items():
            columns[f"{ad}_by_{name}"] = place.gains[ad].of(pair(at, known_keys[key], len(keys[key])), fold)
    return columns


def _at_displays(sites: dict[str, Attribute], chunk: Chunk) -> dict[str, Longs | pa.ChunkedArray]:
    """The place of each display (D,), unknown as -1 or null: as `_at` has it."""
    first, (country, state) = chunk.offsets[:-1], (chunk.texts["country"], chunk.texts["state"])
    time = chunk.more["timestamp"][first]
    return {
        **{name: site.of(chunk.page) for name, site in sites.items()},
        "page": chunk.page,
        "country": country,
        "state": pc.binary_join_element_wise(country, state, _WITHIN),
        "platform": chunk.more["platform"][first],
        "daypart": np.where(time < 0, -1, time // DAY_PART_MS % 6),
    }


def _read_place(engine: Engine, inputs: Inputs, keys: dict[str, Index], place: str, known: ir.Table) -> _Place:
    rows = engine.to_arrow(known)
    text = pa.types.is_string(rows[place].type)
    index = Names(rows[place].unique()) if text else Index(np.unique(whole_numbers(rows[place])))
    found = {}
    for at, (name, key) in enumerate(KEYS.items()):
        own = rows.filter(pc.field("name") == at)
        there = index.places(own[place] if text else whole_numbers(own[place]))
        ids = pair(there, keys[key].places(whole_numbers(own["key"])), len(keys[key]))
        found[name] = read_known(inputs, own, ids, "gain")
    return _Place(index, found)


def _gains(inputs: Inputs) -> Iterator[tuple[str, ir.Table]]:
    """For each place the look-up of `gain` by name (its place in KEYS), key, PLACE, where a row may know enough."""
    folds, least = inputs.smoothing.folds, inputs.smoothing.strength / scale(inputs)
    everywhere = _by_names(inputs, counts(inputs.history, ["ad_id"], folds), ["fold"])
    for place in PLACES:
        here = _frequent(inputs, counts(_at(inputs, inputs.history, place), ["ad_id", place], folds), place)
        yield place, gains(inputs, inputs.once(everywhere), here, ["name", "key"], [place], least)


def _frequent(inputs: Inputs, by_ad: ir.Table, place: str) -> ir.Table:
    """The counts by name, key, place, and fold of those pairs of key and place of which some row may know enough."""
    total = _by_names(inputs, by_ad, [place])
    often = inputs.once(total.filter(total.shows >= inputs.smoothing.strength / scale(replace(inputs, part="history"))))
    return inputs.once(_by_names(inputs, by_ad, [place, "fold"], often))


def _by_names(inputs: Inputs, by_ad: ir.Table, more: list[str], often: ir.Table | None = None) -> ir.Table:
    """The counts of ads by name (its place in KEYS), key, and `more`; only those that are `often` shown.

    A campaign's counts are sums over its ads, so history is counted but once.
    """
    by_ad, ads = inputs.once(by_ad), inputs.once(_ads(inputs))
    named = []
    for at, key in enumerate(KEYS.values()):
        counted = by_ad if key == "ad_id" else by_ad.inner_join(ads.filter(ads[key].notnull()), "ad_id")
        named.append(counted.select(*more, *COUNTS, name=ibis.literal(at, "int8"), key=counted[key]))
    table = ibis.union(*named)
    if often is not None:
        table = table.semi_join(often, ["name", "key", more[0]])
    return sums(table, ["name", "key", *more])


def _ads(inputs: Inputs) -> ir.Table:
    """ad_id, and what else the ad is known by: all columns of KEYS."""
    table = inputs.table("promoted_content").rename(ad_document_id="document_id")
    for subject in SUBJECTS:
        known = strongest(inputs, subject).rename({f"ad_{subject}": subject})
        table = look_up(table, inputs.once(known), {"ad_document_id": "document_id"})
    return table.select(*KEYS.values())


def _at(inputs: Inputs, table: ir.Table, place: str) -> ir.Table:
    """Add the column PLACE: which publisher, source, ... the row's display has."""
    if place in _OF_PAGE:
        return look_up(table, _of_documents(inputs, place), {"document_id": "document_id"})
    columns = {
        "page": table.document_id,
        "country": table.country,
        "state": table.country + ibis.literal(_WITHIN) + table.state,
        "platform": table.platform,
        "daypart": table.timestamp // DAY_PART_MS % 6,
    }
    return table.mutate(**{place: columns[place]})


def _of_documents(inputs: Inputs, place: str) -> ir.Table:
    """document_id -> PLACE, where it is known."""
    meta = inputs.table("documents_meta")
    known = meta.filter(meta[f"{place}_id"].notnull())
    return inputs.once(known.select("document_id", **{place: f"{place}_id"}))


GROUP = Group(
    scope="out-of-fold",
    columns=tuple(
        number(
            f"{name}_by_{place}",
            f"log of clicks over what the lift of the {name.replace('_', ' ')} lets expect, smoothed, by {meaning}",
        )
        for name in KEYS
        for place, meaning in PLACES.items()
    ),
    walk=walk,
)
