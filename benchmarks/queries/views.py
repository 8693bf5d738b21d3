"""What the user viewed before the display and in the hour after it: of the 20 nearest views the documents and what they
are known by, and how many views there are."""

from __future__ import annotations

from benchmarks.queries.base import Part, Query
from benchmarks.queries.subjects import in_units

_LABELS = ("source", "publisher", "category", "topic")
_FIELDS = {"viewed": "before", "next": "NOT before"}
_TRAFFIC = {"internal": 1, "search": 2, "social": 3}


def select(part: Part) -> str:
    listed = "list(struct_pack(id := id, weight := weight::FLOAT) ORDER BY id)"
    documents = ", ".join(f"{listed} FILTER ({side}) AS {field}_document" for field, side in _FIELDS.items())
    labels = ", ".join(
        f"{listed} FILTER ({side} AND label = '{label}') AS {field}_{label}"
        for field, side in _FIELDS.items()
        for label in _LABELS
    )
    counts = {"views": "", **{name: f" AND traffic_source = {number}" for name, number in _TRAFFIC.items()}}
    sides = {"before": "delay < 0", "after": "delay >= 0"}
    counted = {f"{name}_{side}": which + more for side, which in sides.items() for name, more in counts.items()}
    # in the order of the stage's columns: the numbers of all views first
    counted = dict(sorted(counted.items(), key=lambda column: not column[0].startswith("views")))
    lists = ", ".join(f"{field}_{label}" for field in _FIELDS for label in ("document", *_LABELS))
    return f"""
WITH near AS (
        SELECT display_id, delay < 0 AS before, document_id FROM {part}_views WHERE delay < 3600000
        QUALIFY row_number() OVER (PARTITION BY display_id, delay < 0 ORDER BY abs(delay), document_id) <= 20
    ),
    times AS (SELECT display_id, before, document_id AS id, count(*) AS weight FROM near GROUP BY ALL),
    documents AS (SELECT display_id, {documents} FROM times GROUP BY ALL),
    sums AS (
        SELECT display_id, before, label, about.id, sum(times.weight * about.weight) / 10000 AS weight
        FROM times JOIN about ON about.document_id = times.id GROUP BY ALL
    ),
    labels AS (SELECT display_id, {labels} FROM sums GROUP BY ALL),
    counts AS (
        SELECT display_id, {", ".join(f"count(*) FILTER ({which}) AS {name}" for name, which in counted.items())}
        FROM {part}_views GROUP BY ALL
    )
SELECT row, first, {lists},
    {", ".join(f"ln(coalesce({name}, 0) + 1)::FLOAT AS {name}" for name in counted)}
FROM {part} i LEFT JOIN counts ON counts.display_id = i.display_id
    LEFT JOIN documents ON documents.display_id = i.display_id AND first
    LEFT JOIN labels ON labels.display_id = i.display_id AND first
ORDER BY row
"""


QUERY = Query(select, [f"CREATE TEMP TABLE about AS {in_units(_LABELS)}"])
