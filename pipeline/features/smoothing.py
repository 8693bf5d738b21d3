"""Smoothed click rates of a key (an ad, a campaign, ...), counted so that no row knows its own label.

A row of history is described by the other folds of displays (a fold is a hash of display_id), a row of target by all of
history. Counts of history are scaled by folds / (folds - 1), so that both parts see the same distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ibis
import ibis.expr.types as ir

from pipeline.core.config import check
from pipeline.core.relational import look_up_all

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
    return fold_of(table.display_id.cast("int64"), folds).cast("int8")


def fold_of(display_id: Any, folds: int) -> Any:
    """The same of numbers (int64), whatever they stand in."""
    return display_id % 2**31 * 2_654_435_761 // 65_536 % folds


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


def known(inputs: Inputs, counted: ir.Table, keys: list[str], least: float = 1) -> ir.Table:
    """What a row may know of `counts` by `keys`, found by `key_of` it: a row of target the counts of all folds, a row
    of history those of all folds but its own. Only where these are at least so many shows."""
    total = sums(counted, keys)
    total = total.filter(total.shows >= least)
    if inputs.part == "target":
        return total
    joined = counted.inner_join(total, keys, rname="{name}_total")
    others = {name: joined[f"{name}_total"] - joined[name] for name in COUNTS}
    return joined.filter(others["shows"] >= least).select(*keys, "fold", **others)


def key_of(inputs: Inputs, keys: list[str]) -> dict[str, str]:
    """By what a row finds what it may know of counts by `keys`, as `look_up` takes it."""
    return {key: key for key in [*keys, *(["fold"] if inputs.part == "history" else [])]}


def base_rate(inputs: Inputs) -> ir.Value:
    """History's click rate."""
    history = inputs.history
    clicks = history.aggregate(clicks=history.clicked.cast("int64").sum(), shows=history.count())
    return inputs.once(clicks.select(rate=clicks.clicks.cast("float64") / clicks.shows)).rate.as_scalar()


def scale(inputs: Inputs) -> float:
    """By how much out-of-fold counts are enlarged, so that they are those of the whole history."""
    return inputs.smoothing.folds / (inputs.smoothing.folds - 1) if inputs.part == "history" else 1.0


def over_expected(inputs: Inputs, table: ir.Table, lift: ir.Value | float = 1.0) -> ir.Value:
    """The clicks of a table of known counts over those expected of its shows if each brings `lift` times its share,
    both plus the prior: the clicks of `strength` impressions at the base rate."""
    prior = inputs.smoothing.strength * base_rate(inputs)
    expected = table.expected * scale(inputs) / UNITS
    return (table.clicks * scale(inputs) + prior) / (expected * lift + prior)


def gains(
    inputs: Inputs, everywhere: ir.Table, here: ir.Table, keys: list[str], more: list[str], least: float = 1
) -> ir.Table:
    """The look-up of `gain` (float32), by `key_of` all keys, from `counts` by `keys` and `counts` by these and `more`:
    log of the clicks here over those expected of the shows here by the lift everywhere, smoothed; only where a row may
    know of at least so many shows here. Else it is 0."""
    alone = known(inputs, everywhere, keys)
    lifts = inputs.once(alone.select(*key_of(inputs, keys), lift=over_expected(inputs, alone)))
    table = known(inputs, here, [*keys, *more], least).inner_join(lifts, list(key_of(inputs, keys)))
    gain = over_expected(inputs, table, table.lift).ln().cast("float32")
    return inputs.once(table.select(*key_of(inputs, [*keys, *more]), gain=gain))


def add_rates(inputs: Inputs, keys: dict[str, str]) -> ir.Table:
    """Add to the impressions, for each name -> key column: `NAME_shows` (log(1 + count)), `NAME_rate` and `NAME_lift`.

    rate: logit of (clicks + s b) / (shows + s), with s the strength and b history's click rate. lift: log of
    (clicks + s b) / (expected + s b), where each show is expected to bring 1 / (ads in its display) clicks; it does not
    mistake a small display for a good ad. A key that history does not know has the base rate and lift 0. All float64.
    """
    table = inputs.impressions.mutate(fold=fold(inputs.impressions, inputs.smoothing.folds))
    lookups = []
    for name, key in keys.items():
        measures = {f"{name}_{measure}": measure for measure in ("shows", "rate", "lift")}
        lookups.append((inputs.once(rates(inputs, key)).rename(measures), key_of(inputs, [key])))
    table = look_up_all(table, lookups)
    prior = inputs.smoothing.strength * base_rate(inputs)
    unknown = {"shows": 0, "rate": (prior / (inputs.smoothing.strength - prior)).ln(), "lift": 0}
    return table.mutate(
        **{
            f"{name}_{measure}": table[f"{name}_{measure}"].fill_null(value)
            for name in keys
            for measure, value in unknown.items()
        }
    )


def rates(inputs: Inputs, key: str) -> ir.Table:
    """The look-up of `shows`, `rate` and `lift` of a key, as far as a row may know them."""
    strength = inputs.smoothing.strength
    table = known(inputs, inputs.once(counts(inputs.history, [key], inputs.smoothing.folds)), [key])
    shows, clicked = table.shows * scale(inputs), table.clicks * scale(inputs) + strength * base_rate(inputs)
    return table.select(
        *key_of(inputs, [key]),
        shows=(shows + 1).ln(),
        rate=(clicked / (shows + strength - clicked)).ln(),
        lift=over_expected(inputs, table).ln(),
    )
