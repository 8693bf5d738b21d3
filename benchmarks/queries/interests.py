"""What the user is interested in: the cubes of how often categories and topics are met, and the favourite publisher."""

from __future__ import annotations

from benchmarks.queries.base import Query
from benchmarks.queries.subjects import in_units, read
from pipeline.schemas.impressions import Part

_CUBED = ("category", "topic")
_READ = ("interest", "profile")
_BEFORE = (
    *(f"CREATE TEMP TABLE {label} AS {in_units(label)}" for label in (*_CUBED, "publisher")),
    """CREATE TEMP MACRO cubed(met, most) AS [
            struct_pack(id := x.id, weight := ((x.times / most) ** 3)::FLOAT) FOR x IN met IF x.times * 4 >= most
        ]""",
    """CREATE TEMP MACRO shared(ids) AS [struct_pack(id := x, weight := (1 / len(ids))::FLOAT) FOR x IN ids]""",
)


def _met(label: str) -> str:
    """display_id, id -> how often an id is met on the pages that count for either."""
    sums = ", ".join(f"sum(weight) FILTER ({which}) AS {which}" for which in _READ)
    return f"SELECT display_id, id, {sums} FROM read JOIN {label} USING (document_id) GROUP BY ALL"


def _lists(label: str) -> str:
    met = ", ".join(
        f"list_sort(list(struct_pack(id := id, times := {which})) FILTER ({which} > 0)) AS {which}, "
        f"max({which}) AS most_{which}"
        for which in _READ
    )
    cubed = ", ".join(f"cubed({which}, most_{which}) AS {which}_{label}" for which in _READ)
    return f"""
    {label}_lists AS (
        SELECT display_id, {cubed} FROM (SELECT display_id, {met} FROM ({_met(label)}) GROUP BY ALL)
    )
"""


def select(part: Part) -> str:
    return f"""
WITH read AS ({read(part)}),
    {", ".join(map(_lists, _CUBED))},
    favourites AS (
        SELECT display_id, shared(list_sort(list(id))) AS favourite_publisher
        FROM (
            FROM ({_met("publisher")})
            QUALIFY profile = max(profile) OVER (PARTITION BY display_id)
        )
        GROUP BY ALL
    )
SELECT row, first, interest_category, profile_category, interest_topic, profile_topic, favourite_publisher
FROM {part} i LEFT JOIN category_lists ON category_lists.display_id = i.display_id AND first
    LEFT JOIN topic_lists ON topic_lists.display_id = i.display_id AND first
    LEFT JOIN favourites ON favourites.display_id = i.display_id AND first
ORDER BY row
"""


QUERY = Query(select, _BEFORE)
