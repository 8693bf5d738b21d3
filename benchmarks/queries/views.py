"""What the user viewed around the display: by what the documents of the nearest views are known; numbers of views."""

from __future__ import annotations

from benchmarks.queries.base import Query
from benchmarks.queries.subjects import in_units
from pipeline.schemas.impressions import Part

_LABELS = ("source", "publisher", "category", "topic")
_FIELDS = {"viewed": "before", "next": "NOT before"}
_SIDES = {"before": "delay < 0", "after": "delay >= 0"}
_TRAFFIC = {"internal": 1, "search": 2, "social": 3}
#: Counts of views -> which.
_COUNTS = {f"views_{side}": which for side, which in _SIDES.items()} | {
    f"{name}_{side}": f"{which} AND traffic_source = {number}"
    for side, which in _SIDES.items()
    for name, number in _TRAFFIC.items()
}


def _lists(label: str, found: str) -> str:
    """A display's lists of both fields, from what is found by display and id."""
    lists = ", ".join(  # sorted afterwards, which takes less than ORDER BY
        f"list_sort(list(struct_pack(id := id, weight := {field}::FLOAT)) FILTER ({field} IS NOT NULL)) "
        f"AS {field}_{label}"
        for field in _FIELDS
    )
    return f"{label}_lists AS (SELECT display_id, {lists} FROM ({found}) GROUP BY ALL)"


def _by_label(label: str) -> str:
    sums = ", ".join(f"sum(times * weight) FILTER ({which}) / 10000 AS {field}" for field, which in _FIELDS.items())
    return f"SELECT display_id, id, {sums} FROM times JOIN {label} USING (document_id) GROUP BY ALL"


def select(part: Part) -> str:
    times = ", ".join(f"sum(times) FILTER ({which}) AS {field}" for field, which in _FIELDS.items())
    tables = [
        _lists("document", f"SELECT display_id, document_id AS id, {times} FROM times GROUP BY ALL"),
        *(_lists(label, _by_label(label)) for label in _LABELS),
    ]
    listed = [f"{field}_{label}" for field in _FIELDS for label in ("document", *_LABELS)]
    joins = " ".join(
        f"LEFT JOIN {label}_lists ON {label}_lists.display_id = i.display_id AND first"
        for label in ("document", *_LABELS)
    )
    return f"""
WITH near AS (
        SELECT display_id, delay < 0 AS before, document_id FROM {part}_views WHERE delay < 3600000
        QUALIFY row_number() OVER (PARTITION BY display_id, delay < 0 ORDER BY abs(delay), document_id) <= 20
    ),
    times AS (SELECT display_id, before, document_id, count(*) AS times FROM near GROUP BY ALL),
    {", ".join(tables)},
    counts AS (
        SELECT display_id, {", ".join(f"count(*) FILTER ({which}) AS {name}" for name, which in _COUNTS.items())}
        FROM {part}_views GROUP BY ALL
    )
SELECT row, first, {", ".join(listed)}, {", ".join(f"ln(coalesce({name}, 0) + 1)::FLOAT AS {name}" for name in _COUNTS)}
FROM {part} i LEFT JOIN counts ON counts.display_id = i.display_id {joins}
ORDER BY row
"""


QUERY = Query(select, [f"CREATE TEMP TABLE {label} AS {in_units(label)}" for label in _LABELS])
