"""Categories and topics of the pages that the user viewed, by the cube of how often they are met, and the publishers
that are met most."""

from __future__ import annotations

from benchmarks.queries.base import Part, Query
from benchmarks.queries.subjects import in_units, read

_LISTED = [
    ("interest", "category"),
    ("profile", "category"),
    ("interest", "topic"),
    ("profile", "topic"),
    ("profile", "publisher"),
]
_BEFORE = (
    f"CREATE TEMP TABLE about AS {in_units(('category', 'topic', 'publisher'))}",
    """CREATE TEMP MACRO cubed(met, most) AS CASE WHEN most > 0 THEN
        [struct_pack(id := x.id, weight := ((x.times / most) ** 3)::FLOAT) FOR x IN met IF x.times * 4 >= most] END""",
    """CREATE TEMP MACRO shared(ids) AS [struct_pack(id := x, weight := (1 / len(ids))::FLOAT) FOR x IN ids]""",
    "CREATE TEMP MACRO most_met(met, most) AS [x.id FOR x IN met IF x.times = most]",
)


def select(part: Part) -> str:
    lists = ", ".join(
        f"list(struct_pack(id := id, times := {read}) ORDER BY id) FILTER ({met}) AS {read}_{label}, "
        f"max({read}) FILTER ({met}) AS most_{read}_{label}"
        for read, label in _LISTED
        if (met := f"label = '{label}' AND {read} IS NOT NULL")
    )
    cubed = ", ".join(
        f"cubed({read}_{label}, most_{read}_{label}) AS {read}_{label}"
        for read, label in _LISTED
        if label != "publisher"
    )
    return f"""
WITH read AS ({read(part)}),
    met AS (
        SELECT display_id, label, id, sum(weight) FILTER (interest) AS interest, sum(weight) FILTER (profile) AS profile
        FROM read JOIN about USING (document_id) GROUP BY ALL
    ),
    listed AS (SELECT display_id, {lists} FROM met GROUP BY ALL),
    weighed AS (
        SELECT display_id, {cubed}, shared(most_met(profile_publisher, most_profile_publisher)) AS favourite_publisher
        FROM listed
    )
SELECT row, first, weighed.* EXCLUDE (display_id)
FROM {part} i LEFT JOIN weighed ON weighed.display_id = i.display_id AND first
ORDER BY row
"""


QUERY = Query(select, _BEFORE)
