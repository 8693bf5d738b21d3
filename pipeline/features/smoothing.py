"""Smoothed click rates of a key (an ad, a campaign, ...), counted so that no row knows its own label.

A row of history is described by the other folds of displays (a fold is a hash of display_id), a row of target by all of
history. Counts of history are scaled by folds / (folds - 1), so that both parts see the same distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ibis
import ibis.expr.types as ir

from pipeline.core.config import check
from pipeline.core.relational import LookUp, look_up
from pipeline.schemas.impressions import Part

if TYPE_CHECKING:
    from pipeline.features.base import Inputs

#: 1/n for a display of n ads, in whole units: sums of integers do not depend on their order. lcm(1..12).
UNITS = 27_720
#: The names of what an ad is known by -> its column.
AD_KEYS = {
    "ad": "ad_id",
    "ad_document": "ad_document_id",
    "campaign": "campaign_id",
    "advertiser": "advertiser_id",
}
COUNTS = ("shows", "clicks", "expected")


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothingConfig:
    """The section `smoothing` of params.yaml, for all groups that use click rates.

    folds: into how many folds history's displays are cut. strength: how many impressions at the base rate are added
    to every count (the competition's baseline uses 12, its second place 50).
    """

    folds: int = 5
    strength: float = 12.0

    def __post_init__(self) -> None:
        check(self.folds >= 2, f"folds: must be 2 or more, found {self.folds}")
        check(self.strength > 0, f"strength: must be above 0, found {self.strength}")


def fold(table: ir.Table, folds: int) -> ir.Column:
    """The fold of each row's display: a multiplicative hash (Knuth), the same on every engine, without overflow."""
    return ((table.display_id.cast("int64") % 2**31 * 2_654_435_761) // 65_536 % folds).cast("int8")


def counts(history: ir.Table, keys: list[str], folds: int) -> ir.Table:
    """keys, fold -> shows, clicks and expected clicks (in 1/UNITS) of history's rows in each fold of displays; rows of
    which a key is unknown are left out."""
    history = history.filter(*(history[key].notnull() for key in keys)).mutate(fold=fold(history, folds))
    return history.group_by([*keys, "fold"]).aggregate(
        shows=history.count().cast("int64"),
        clicks=history.clicked.cast("int64").sum().cast("int64"),
        expected=(ibis.literal(UNITS, "int64") // history.ads.cast("int64")).sum().cast("int64"),
    )


def sums(counted: ir.Table, keys: list[str]) -> ir.Table:
    """The same counts by fewer keys."""
    return counted.group_by(keys).aggregate(**{name: counted[name].sum().cast("int64") for name in COUNTS})


def known(counted: ir.Table, keys: list[str], part: Part, least: float = 1) -> ir.Table:
    """What a row may know of `counts`. target: keys -> the counts of all folds; history: keys, fold -> those of all
    other folds. Only where these are at least so many shows."""
    total = sums(counted, keys)
    if part == "target":
        return total.filter(total.shows >= least)
    joined = counted.inner_join(total, keys, rname="{name}_total")
    others = {name: joined[f"{name}_total"] - joined[name] for name in COUNTS}
    return joined.filter(others["shows"] >= least).select(*keys, "fold", **others)


def base_rate(inputs: Inputs) -> ir.Value:
    """History's click rate."""
    history = inputs.history
    clicks = history.aggregate(clicks=history.clicked.cast("int64").sum(), shows=history.count())
    return inputs.once(clicks.select(rate=clicks.clicks.cast("float64") / clicks.shows)).rate.as_scalar()


def scale(inputs: Inputs) -> float:
    """By how much out-of-fold counts are enlarged, so that they are those of the whole history."""
    return inputs.smoothing.folds / (inputs.smoothing.folds - 1) if inputs.part == "history" else 1.0


def with_prior(inputs: Inputs, table: ir.Table) -> ir.Table:
    """Add what the counts of a row are found and smoothed by: its `fold`, and `prior`, the clicks that are added."""
    folds, strength = inputs.smoothing.folds, inputs.smoothing.strength
    return table.mutate(fold=fold(table, folds), prior=strength * base_rate(inputs))


def look_up_known(inputs: Inputs, name: str, counted: ir.Table, keys: list[str], least: float = 1) -> LookUp:
    """The look-up of `NAME_clicks` and `NAME_expected`: what a row of `with_prior` may know of counts by keys,
    where these are at least so many shows."""
    lookup = inputs.once(known(counted, keys, inputs.part, least).drop("shows"))
    lookup = lookup.rename({f"{name}_clicks": "clicks", f"{name}_expected": "expected"})
    return lookup, {key: key for key in [*keys, *(["fold"] if inputs.part == "history" else [])]}


def over_expected(inputs: Inputs, table: ir.Table, name: str, lift: ir.Value | float = 1.0) -> ir.Value:
    """The clicks of NAME (see `look_up_known`) over those expected of its shows if each brings `lift` times its share,
    both plus the prior."""
    clicks = table[f"{name}_clicks"].fill_null(0) * scale(inputs)
    expected = table[f"{name}_expected"].fill_null(0) * scale(inputs) / UNITS
    return (clicks + table.prior) / (expected * lift + table.prior)


def add_rates(inputs: Inputs, keys: dict[str, str]) -> ir.Table:
    """Add to the impressions, for each name -> key column: `NAME_shows` (log(1 + count)), `NAME_rate` and `NAME_lift`.

    rate: logit of (clicks + s b) / (shows + s), with s the strength and b history's click rate. lift: log of
    (clicks + s b) / (expected + s b), where each show is expected to bring 1 / (ads in its display) clicks; it does not
    mistake a small display for a good ad. A key that history does not know has the base rate and lift 0. All float64.
    """
    history, strength, folds = inputs.history, inputs.smoothing.strength, inputs.smoothing.folds
    table = with_prior(inputs, inputs.impressions)
    for name, key in keys.items():
        lookup = inputs.once(known(inputs.once(counts(history, [key], folds)), [key], inputs.part))
        by = {key: key, "fold": "fold"} if inputs.part == "history" else {key: key}
        table = look_up(table, lookup.rename({f"{name}_{count}": count for count in COUNTS}), by)
        counted = {count: table[f"{name}_{count}"].fill_null(0) * scale(inputs) for count in COUNTS}
        clicked = counted["clicks"] + table.prior
        table = table.mutate(
            **{
                f"{name}_shows": (counted["shows"] + 1).ln(),
                f"{name}_rate": (clicked / (counted["shows"] + strength - clicked)).ln(),
                f"{name}_lift": (clicked / (counted["expected"] / UNITS + table.prior)).ln(),
            }
        )
    return table
