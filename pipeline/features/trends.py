"""How often an ad, its document, campaign and advertiser were shown and clicked lately: by day and hour.

Shows are counted in the displays of both parts. Clicks are those of history's displays of earlier periods, so no row's
own click is among them, and none that was given later.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.smoothing import AD_KEYS, UNITS
from pipeline.schemas.features import Column, Scope
from pipeline.schemas.raw import DAY_MS

PERIODS = {"day": DAY_MS, "hour": DAY_MS // 24}
#: What an impression is taken to bring before anything is known: the competition's click rate. Were it measured here,
#: it would hold clicks that were given later.
_RATE = 0.1936
_MEASURES: dict[str, tuple[Scope, str]] = {
    "previous": ("time-causal", "log(1 + times the {key} was shown in the previous {period}), unknown in the first"),
    "same": ("future", "log(1 + times the {key} is shown in the same {period})"),
    "next": ("future", "log(1 + times the {key} is shown in the next {period}), in the last one that of the same"),
    "lift": (
        "past-clicks",
        "log of the {key}'s clicks over expected clicks in the previous {period}, smoothed by all {period}s before",
    ),
}


def build(inputs: Inputs) -> ir.Table:
    table = inputs.impressions
    for period, length in PERIODS.items():
        table = table.mutate(**{period: (table.timestamp // length).cast("int32")})
        for key, column in AD_KEYS.items():
            trend = inputs.once(_trend(inputs, column, period))
            trend = trend.rename({f"{key}_{period}_{measure}": measure for measure in _MEASURES})
            table = look_up(table, trend, {column: column, period: period})
    return table


def _trend(inputs: Inputs, key: str, period: str) -> ir.Table:
    """A look-up by `key` and `period`: the measures of each that holds a show.

    lift: (clicks + s r) / (expected + s), where s is the strength in expected clicks and r the same ratio over all
    periods before, itself smoothed towards 1. Without a labelled period before, as in target's last days, it is r.
    """
    counts = inputs.once(_counts(inputs, key, period))
    time, in_order = counts[period], ibis.window(group_by=key, order_by=period)
    first, last = (end.as_scalar() for end in (time.min(), time.max()))
    follows = (time.lag().over(in_order) == time - 1).fill_null(False)
    goes_on = (time.lead().over(in_order) == time + 1).fill_null(False)

    def previous(column: str) -> ir.Value:
        return ibis.ifelse(follows, counts[column].lag().over(in_order), 0)

    def all_before(column: str) -> ir.Value:
        return counts[column].sum().over(ibis.cumulative_window(group_by=key, order_by=period)) - counts[column]

    strength = inputs.smoothing.strength * _RATE
    ratio = (all_before("clicks") + strength) / (all_before("expected") / UNITS + strength)
    shows = {
        "previous": ibis.ifelse(time == first, ibis.null("int64"), previous("shows")),
        "same": counts.shows,
        "next": ibis.ifelse(time == last, counts.shows, ibis.ifelse(goes_on, counts.shows.lead().over(in_order), 0)),
    }
    lift = (previous("clicks") + strength * ratio) / (previous("expected") / UNITS + strength)
    features = {name: (count + 1).ln() for name, count in shows.items()} | {"lift": lift.ln()}
    found = counts.select(key, period, **{name: value.cast("float32") for name, value in features.items()})
    return found.order_by([period, key])


def _counts(inputs: Inputs, key: str, period: str) -> ir.Table:
    """key, period, shows, clicks and expected clicks (in 1/UNITS): the clicks are history's."""
    needed = [key, "timestamp", "clicked", "ads"]
    both = ibis.union(inputs.history.select(needed), inputs.target.select(needed))
    both = both.filter(both[key].notnull() & both.timestamp.notnull())
    both = both.mutate(**{period: (both.timestamp // PERIODS[period]).cast("int32")})
    expected = ibis.literal(UNITS, "int64") // both.ads.cast("int64")
    return both.group_by([key, period]).aggregate(
        shows=both.count().cast("int64"),
        clicks=both.clicked.cast("int64").sum().fill_null(0).cast("int64"),
        expected=expected.sum(where=both.clicked.notnull()).fill_null(0).cast("int64"),
    )


GROUP = Group(
    scope="past-clicks",
    columns=tuple(
        Column(
            name=f"{key}_{period}_{measure}",
            kind="numeric",
            dtype="float32",
            meaning=meaning.format(key=key, period=period),
            scope=scope,
        )
        for period in PERIODS
        for key in AD_KEYS
        for measure, (scope, meaning) in _MEASURES.items()
    ),
    build=build,
)
