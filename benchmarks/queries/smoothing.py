"""Smoothed click rates without the row's own fold of displays, as the queries of several groups select them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.schemas.impressions import Part

#: What an ad is known by -> its column.
KEYS = {"ad": "ad_id", "ad_document": "ad_document_id", "campaign": "campaign_id", "advertiser": "advertiser_id"}
#: Of impressions; 27,720 can be divided by all numbers of ads that a display may have.
COUNTS = "count(*) AS shows, sum(clicked)::BIGINT AS clicks, sum(27720 // ads)::BIGINT AS expected"
#: Of such counts by fewer keys.
SUMS = "sum(shows)::BIGINT AS shows, sum(clicks)::BIGINT AS clicks, sum(expected)::BIGINT AS expected"
#: fold(display_id); the clicks that are added to all others; log of clicks over expected clicks times a lift.
BEFORE = (
    "CREATE TEMP MACRO fold(id) AS (id::BIGINT % 2147483648 * 2654435761) // 65536 % getvariable('folds')",
    "SET VARIABLE prior = (SELECT getvariable('strength') * sum(clicked)::DOUBLE / count(*) FROM history)",
    """CREATE TEMP MACRO over_expected(clicks, expected, lift) AS
        (clicks + getvariable('prior')) / (expected / 27720 * lift + getvariable('prior'))""",
)


def scale(part: Part) -> str:
    """How much larger history is than what its rows know of it."""
    return "(getvariable('folds')::DOUBLE / (getvariable('folds') - 1))" if part == "history" else "1::DOUBLE"


def by(part: Part, *keys: str) -> list[str]:
    """The columns by which a row of a part finds what `known` gives."""
    return [*keys, "fold"] if part == "history" else list(keys)


def known(part: Part, counts: str, keys: Sequence[str], least: float | str = 1) -> str:
    """Of a table of counts by `keys` and fold, what rows of target may know: all; what rows of history may know: all
    but those of their own fold, made as large. Only where that are at least so many shows."""
    named = ", ".join(keys)
    total = f"SELECT {named}, {SUMS} FROM {counts} GROUP BY {named} HAVING sum(shows) * {scale(part)} >= {least}"
    if part == "target":
        return total
    others = ", ".join(
        f"(whole.{name} - own.{name}) * {scale(part)} AS {name}" for name in ("shows", "clicks", "expected")
    )
    return f"""
        SELECT {named}, own.fold, {others} FROM {counts} own JOIN ({total}) whole USING ({named})
        WHERE (whole.shows - own.shows) * {scale(part)} >= {least}
    """


def gains(
    part: Part, everywhere: str, here: str, keys: Sequence[str], more: Sequence[str], least: float | str = 1
) -> str:
    """By keys, `more` and fold: log of the clicks here over those that the lift everywhere lets expect. From tables of
    counts by keys, and by these and `more`."""
    return f"""
        SELECT {", ".join(f"here.{column}" for column in by(part, *keys, *more))},
            ln(over_expected(here.clicks, here.expected, over_expected(alone.clicks, alone.expected, 1))) AS gain
        FROM ({known(part, here, [*keys, *more], least)}) here
            JOIN ({known(part, everywhere, keys)}) alone USING ({", ".join(by(part, *keys))})
    """
