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
from pipeline.schemas.features import Scope, number
from pipeline.schemas.raw import DAY_MS

PERIODS = {"day": DAY_MS, "hour": DAY_MS // 24}
#: What an impression is taken to bring before anything is known: the competition's click rate. Were it measured here,
#: it would hold clicks that were given later.
_RATE = 0.1936
_MEASURES: dict[str, tuple[Scope, str]] = {
    "previous": ("time-causal", "log(1 + times the {key} was shown in the previous {period}), unknown in the first"),
    "same": ("future", "log(1 + times the {key} is shown in the same {period})"),
    "next": ("future", "log(1 + times the {key} is shown in the next {period}), in the last one that of the same"),
    "trend": ("past-clicks", "log of the {key}'s lift in the previous {period} over that of all {period}s before"),
}
_BEFORE = "log of the {key}'s clicks over expected clicks, smoothed, of all hours before"
_DRIFT = "log of the {key}'s lift of all days before, the latest most, over their lift if all count the same"
#: Days after which what was clicked counts half; it still tells of target's last days, whose own clicks are unknown.
_HALF_LIFE = 3
#: The weight of the first day, a whole number as those of all days: their sums do not depend on their order.
_FIRST_WEIGHT = 1024


def build(inputs: Inputs) -> ir.Table:
    table = inputs.impressions
    for period, length in PERIODS.items():
        table = table.mutate(**{period: (table.timestamp // length).cast("int32")})
        for key, column in AD_KEYS.items():
            trend = inputs.once(_trend(inputs, column, period))
            names = {measure: f"{key}_{period}_{measure}" for measure in _MEASURES}
            # the hours before say it later and so better; which ones are the latest, days say well enough
            names |= {"before": f"{key}_lift_before"} if period == "hour" else {"drift": f"{key}_drift"}
            trend = trend.select(column, period, *names)
            table = look_up(
                table, trend.rename({new: old for old, new in names.items()}), {column: column, period: period}
            )
    return table


def _trend(inputs: Inputs, key: str, period: str) -> ir.Table:
    """A look-up by `key` and `period`: the measures of each that holds a show, `before` and, of days, `drift`.

    before: log of r = (clicks + s) / (expected + s) of all periods before, where s is the strength in expected clicks.
    trend: log of (clicks + s r) / (expected + s) of the previous period, less `before`; 0 if no click is known of it,
    as in target's last days.
    drift: log of (clicks + s r) / (expected + s) of all periods before, each weighted, less `before`.
    """
    shown = _shown(inputs, period)
    ends = inputs.once(shown.aggregate(first=shown[period].min(), last=shown[period].max()))
    counts = _counts(shown, key, period)
    if period == "day":
        doubled = (counts.day - ends.first.as_scalar()).cast("float64") / _HALF_LIFE
        counts = counts.mutate(weight=(ibis.literal(2.0) ** doubled * _FIRST_WEIGHT).round().cast("int64"))
        counts = counts.mutate(**{f"weighted_{name}": counts[name] * counts.weight for name in ("clicks", "expected")})
    time, in_order = counts[period], ibis.window(group_by=key, order_by=period)
    follows = (time.lag().over(in_order) == time - 1).fill_null(False)
    goes_on = (time.lead().over(in_order) == time + 1).fill_null(False)

    def previous(column: str) -> ir.Value:
        return ibis.ifelse(follows, counts[column].lag().over(in_order), 0)

    def all_before(column: str) -> ir.Value:
        return counts[column].sum().over(ibis.cumulative_window(group_by=key, order_by=period)) - counts[column]

    following = ibis.ifelse(goes_on, counts.shows.lead().over(in_order), 0)
    shows = {
        "previous": ibis.ifelse(time == ends.first.as_scalar(), ibis.null("int64"), previous("shows")),
        "same": counts.shows,
        "next": ibis.ifelse(time == ends.last.as_scalar(), counts.shows, following),
    }
    strength = inputs.smoothing.strength * _RATE
    before = (all_before("clicks") + strength) / (all_before("expected") / UNITS + strength)
    lately = (previous("clicks") + strength * before) / (previous("expected") / UNITS + strength)
    measures = {name: (count + 1).ln() for name, count in shows.items()}
    measures |= {"trend": (lately / before).ln(), "before": before.ln()}
    if period == "day":
        clicks, expected = (all_before(f"weighted_{name}") / counts.weight for name in ("clicks", "expected"))
        measures |= {"drift": ((clicks + strength * before) / (expected / UNITS + strength) / before).ln()}
    found = counts.select(key, period, **{name: value.cast("float32") for name, value in measures.items()})
    return found.order_by([period, key])


def _shown(inputs: Inputs, period: str) -> ir.Table:
    """The impressions of both parts whose time is known, with their period; `clicked` is null in target."""
    needed = [*AD_KEYS.values(), "timestamp", "clicked", "ads"]
    both = ibis.union(inputs.history.select(needed), inputs.target.select(needed))
    both = both.filter(both.timestamp.notnull())
    return both.mutate(**{period: (both.timestamp // PERIODS[period]).cast("int32")})


def _counts(shown: ir.Table, key: str, period: str) -> ir.Table:
    """key, period, shows, clicks and expected clicks (in 1/UNITS): the clicks are history's."""
    shown = shown.filter(shown[key].notnull())
    expected = ibis.literal(UNITS, "int64") // shown.ads.cast("int64")
    return shown.group_by([key, period]).aggregate(
        shows=shown.count().cast("int64"),
        clicks=shown.clicked.cast("int64").sum().fill_null(0).cast("int64"),
        expected=expected.sum(where=shown.clicked.notnull()).fill_null(0).cast("int64"),
    )


GROUP = Group(
    scope="past-clicks",
    columns=(
        *(
            number(f"{key}_{period}_{measure}", meaning.format(key=key, period=period), scope)
            for period in PERIODS
            for key in AD_KEYS
            for measure, (scope, meaning) in _MEASURES.items()
        ),
        *(number(f"{key}_lift_before", _BEFORE.format(key=key), "past-clicks") for key in AD_KEYS),
        *(number(f"{key}_drift", _DRIFT.format(key=key), "past-clicks") for key in AD_KEYS),
    ),
    build=build,
)
