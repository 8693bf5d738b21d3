"""The rivals of an ad in its display, what the user viewed of them, and how its click rates stand against theirs."""

from __future__ import annotations

from benchmarks.queries.base import Part, Query
from benchmarks.queries.smoothing import BEFORE, COUNTS, KEYS, by, known

_LISTED = ("ad", "ad_document", "campaign")


def select(part: Part) -> str:
    lifts = ", ".join(
        f"{name}_lifts AS (SELECT {by(part, key)}, ln(over_expected(clicks, expected, 1)) AS lift "
        f"FROM ({known(part, f'{name}_counts', [key])}))"
        for name, key in KEYS.items()
    )
    joins = " ".join(f"LEFT JOIN {name}_lifts USING ({by(part, key)})" for name, key in KEYS.items())
    lists = ", ".join(
        f"list(struct_pack(id := {KEYS[name]}, weight := 1::FLOAT)) FILTER ({KEYS[name]} IS NOT NULL) OVER others "
        f"AS rival_{name}"
        for name in _LISTED
    )
    ranks = ", ".join(
        f"rank() OVER (PARTITION BY display_id ORDER BY {name}_lift DESC)::FLOAT AS {name}_rank, "
        f"coalesce({name}_lift - max({name}_lift) OVER others, 0)::FLOAT AS {name}_gap"
        for name in KEYS
    )
    return f"""
WITH {lifts},
    seen AS (
        SELECT display_id, document_id AS ad_document_id, bool_or(delay < 0)::INTEGER AS before,
            bool_or(delay >= 0)::INTEGER AS after
        FROM {part}_views GROUP BY ALL
    ),
    i AS (
        SELECT row, first, display_id, {", ".join(KEYS.values())}, coalesce(before, 0) AS before,
            coalesce(after, 0) AS after, {", ".join(f"coalesce({n}_lifts.lift, 0) AS {n}_lift" for n in KEYS)}
        FROM (SELECT *, fold(display_id) AS fold FROM {part}) {joins} LEFT JOIN seen USING (display_id, ad_document_id)
    )
SELECT row, first, (count(*) OVER others)::FLOAT AS rivals, {lists},
    coalesce(sum(before) OVER others, 0)::FLOAT AS rivals_viewed_before,
    coalesce(sum(after) OVER others, 0)::FLOAT AS rivals_viewed_after, {ranks}
FROM i
WINDOW others AS (
    PARTITION BY display_id ORDER BY row
    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE CURRENT ROW
)
ORDER BY row
"""


QUERY = Query(
    select,
    [
        *BEFORE,
        *(
            f"CREATE TEMP TABLE {name}_counts AS SELECT {key}, fold(display_id) AS fold, {COUNTS} "
            f"FROM history WHERE {key} IS NOT NULL GROUP BY ALL"
            for name, key in KEYS.items()
        ),
    ],
)
