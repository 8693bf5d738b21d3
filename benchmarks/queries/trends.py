"""How often an ad, its document, campaign and advertiser were shown and clicked lately: windows over days and hours."""

from __future__ import annotations

from benchmarks.queries.base import Query
from benchmarks.queries.smoothing import KEYS
from pipeline.schemas.impressions import Part

_PERIODS = {"day": 86_400_000, "hour": 3_600_000}
_MEASURES = ("previous", "same", "next", "trend")
_PERIOD = "(timestamp // {length})::INTEGER AS {period}"
#: The impressions of both parts; the clicks are history's.
_SHOWN = " UNION ALL ".join(
    f"""SELECT {", ".join(KEYS.values())}, {clicked} AS clicked, ads,
            {", ".join(_PERIOD.format(length=length, period=period) for period, length in _PERIODS.items())}
        FROM {part} WHERE timestamp IS NOT NULL"""
    for part, clicked in {"history": "clicked", "target": "NULL::UTINYINT"}.items()
)


#: Of a day, which is the later, the more it counts: the first one 1024, each third day after it twice as much.
_WEIGHT = "round(2 ** ((day - getvariable('first_day')) / 3) * 1024)::BIGINT"
#: Of days: all days before, weighed.
_WEIGHED = ", ".join(
    f"coalesce(sum({name} * {_WEIGHT}) OVER earlier, 0) / {_WEIGHT} AS {name}_weighed"
    for name in ("clicks", "expected")
)
_DRIFT = "ln((clicks_weighed + s * r) / (expected_weighed / 27720 + s) / r)::FLOAT AS drift"


def _trend(key: str, period: str) -> str:
    """KEY, PERIOD, the measures, and `before`: the clicks of all periods before over those that were expected; of days
    `drift`, too: the same, where the latest days count most, over `before`."""
    return f"""
WITH counts AS (
        SELECT {key}, {period}, count(*) AS shows, coalesce(sum(clicked), 0)::BIGINT AS clicks,
            coalesce(sum(27720 // ads) FILTER (clicked IS NOT NULL), 0)::BIGINT AS expected
        FROM shown WHERE {key} IS NOT NULL GROUP BY ALL
    ),
    summed AS (
        SELECT {key}, {period}, shows, coalesce(sum(shows) OVER previous, 0) AS shows_previous,
            coalesce(sum(shows) OVER following, 0) AS shows_next,
            coalesce(sum(clicks) OVER previous, 0) AS clicks_previous,
            coalesce(sum(expected) OVER previous, 0) AS expected_previous,
            coalesce(sum(clicks) OVER earlier, 0) AS clicks_before,
            coalesce(sum(expected) OVER earlier, 0) AS expected_before
            {f", {_WEIGHED}" if period == "day" else ""}
        FROM counts
        WINDOW earlier AS (PARTITION BY {key} ORDER BY {period} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
            previous AS (PARTITION BY {key} ORDER BY {period} RANGE BETWEEN 1 PRECEDING AND 1 PRECEDING),
            following AS (PARTITION BY {key} ORDER BY {period} RANGE BETWEEN 1 FOLLOWING AND 1 FOLLOWING)
    ),
    rated AS (  -- s: the strength in clicks, at the competition's click rate
        SELECT *, getvariable('strength') * 0.1936 AS s, (clicks_before + s) / (expected_before / 27720 + s) AS r
        FROM summed
    )
SELECT {key}, {period},
    ln(CASE WHEN {period} > getvariable('first_{period}') THEN shows_previous END + 1)::FLOAT AS previous,
    ln(shows + 1)::FLOAT AS same,
    ln(CASE WHEN {period} < getvariable('last_{period}') THEN shows_next ELSE shows END + 1)::FLOAT AS next,
    ln((clicks_previous + s * r) / (expected_previous / 27720 + s) / r)::FLOAT AS trend,
    ln(r)::FLOAT AS before {f", {_DRIFT}" if period == "day" else ""}
FROM rated
"""


def select(part: Part) -> str:
    measures = [
        f"{key}_{period}.{measure} AS {key}_{period}_{measure}"
        for period in _PERIODS
        for key in KEYS
        for measure in _MEASURES
    ]
    measures += [f"{key}_hour.before AS {key}_lift_before" for key in KEYS]
    measures += [f"{key}_day.drift AS {key}_drift" for key in KEYS]
    joins = " ".join(
        f"LEFT JOIN {key}_{period} ON {key}_{period}.{column} = i.{column} AND {key}_{period}.{period} = i.{period}"
        for period in _PERIODS
        for key, column in KEYS.items()
    )
    periods = ", ".join(_PERIOD.format(length=length, period=period) for period, length in _PERIODS.items())
    return f"""
WITH i AS (SELECT *, {periods} FROM {part})
SELECT row, first, {", ".join(measures)} FROM i {joins} ORDER BY row
"""


QUERY = Query(
    select,
    [
        f"CREATE TEMP VIEW shown AS {_SHOWN}",
        *(
            f"SET VARIABLE {end}_{period} = (SELECT {function}({period}) FROM shown)"
            for period in _PERIODS
            for end, function in {"first": "min", "last": "max"}.items()
        ),
        *(
            f"CREATE TEMP TABLE {key}_{period} AS {_trend(column, period)}"
            for key, column in KEYS.items()
            for period in _PERIODS
        ),
    ],
)
