"""How often an ad, its document, campaign and advertiser were shown and clicked: all counts less the own fold's."""

from __future__ import annotations

from benchmarks.queries.base import Query
from benchmarks.queries.smoothing import BEFORE, COUNTS, KEYS, scale
from pipeline.schemas.impressions import Part


def select(part: Part) -> str:
    history = part == "history"
    tables, joins, columns = [], [], []
    for name, key in KEYS.items():
        tables.append(f"{name}_all AS (SELECT {key}, {COUNTS} FROM folds WHERE {key} IS NOT NULL GROUP BY ALL)")
        joins.append(f"LEFT JOIN {name}_all ON {name}_all.{key} = i.{key}")
        if history:
            tables.append(
                f"{name}_own AS (SELECT {key}, fold, {COUNTS} FROM folds WHERE {key} IS NOT NULL GROUP BY ALL)"
            )
            joins.append(f"LEFT JOIN {name}_own ON {name}_own.{key} = i.{key} AND {name}_own.fold = i.fold")
        n = {
            count: f"coalesce({name}_all.{count}{f' - {name}_own.{count}' if history else ''}, 0) * {scale(part)}"
            for count in ("shows", "clicks", "expected")
        }
        clicked = f"({n['clicks']} + getvariable('prior'))"
        columns += [
            f"ln({n['shows']} + 1)::FLOAT AS {name}_shows",
            f"ln({clicked} / ({n['shows']} + getvariable('strength') - {clicked}))::FLOAT AS {name}_rate",
            f"ln(over_expected({n['clicks']}, {n['expected']}, 1))::FLOAT AS {name}_lift",
        ]
    return f"""
WITH folds AS (SELECT *, fold(display_id) AS fold FROM history),
    i AS (SELECT *, fold(display_id) AS fold FROM {part}),
    {", ".join(tables)}
SELECT row, first, {", ".join(columns)} FROM i {" ".join(joins)} ORDER BY row
"""


QUERY = Query(select, BEFORE)
