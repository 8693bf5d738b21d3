"""The rivals of an ad in its display, what the user viewed of them, and how its click rates stand against theirs."""

from __future__ import annotations

from benchmarks.queries.base import Query
from benchmarks.queries.smoothing import BEFORE, COUNTS, KEYS, by, known
from pipeline.schemas.impressions import Part

_LISTED = ("ad", "ad_document", "campaign")


def select(part: Part) -> str:
    found_by = {name: ", ".join(by(part, key)) for name, key in KEYS.items()}
    lifts = ", ".join(
        f"{name}_lifts AS (SELECT {found_by[name]}, ln(over_expected(clicks, expected, 1)) AS lift "
        f"FROM ({known(part, f'{name}_counts', [key])}))"
        for name, key in KEYS.items()
    )
    joins = " ".join(f"LEFT JOIN {name}_lifts USING ({found_by[name]})" for name in KEYS)
    shown = ", ".join(f"{name} := {KEYS[name]}" for name in _LISTED)
    best = ", ".join(f"list({name}_lift) AS {name}_lifts, max({name}_lift, 2) AS {name}_best" for name in KEYS)
    lists = ", ".join(
        f"nullif([struct_pack(id := x.{name}, weight := 1::FLOAT) FOR x IN shown "
        f"IF x.row <> row AND x.{name} IS NOT NULL], []) AS rival_{name}"
        for name in _LISTED
    )
    # the best rival's lift is the second of the display for the best ad, and for all others the first
    ranks = ", ".join(
        f"(len([x FOR x IN {name}_lifts IF x > {name}_lift]) + 1)::FLOAT AS {name}_rank, coalesce("
        f"{name}_lift - {name}_best[if({name}_lift = {name}_best[1], 2, 1)], 0)::FLOAT AS {name}_gap"
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
    ),
    displays AS (
        SELECT display_id, count(*) AS ads, list_sort(list(struct_pack(row := row, {shown}))) AS shown, {best},
            sum(before) AS before, sum(after) AS after
        FROM i GROUP BY ALL
    )
SELECT row, first, (ads - 1)::FLOAT AS rivals, {lists},
    (displays.before - i.before)::FLOAT AS rivals_viewed_before,
    (displays.after - i.after)::FLOAT AS rivals_viewed_after, {ranks}
FROM i JOIN displays USING (display_id) ORDER BY row
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
