"""Whether and when the user viewed the promoted document."""

from __future__ import annotations

from benchmarks.queries.base import Query
from pipeline.schemas.impressions import Part


def select(part: Part) -> str:
    return f"""
WITH placed AS (
        SELECT *, row_number() OVER (PARTITION BY display_id, delay >= 0 ORDER BY delay, document_id) - 1 AS place
        FROM {part}_views
    ),
    own AS (
        SELECT display_id, document_id,
            max(delay) FILTER (delay < 0) AS before, min(delay) FILTER (delay >= 0) AS after,
            count(*) FILTER (delay < 0) AS times_before, count(*) FILTER (delay >= 0) AS times_after,
            min(place) FILTER (delay >= 0) AS place
        FROM placed GROUP BY ALL
    )
SELECT row, first,
    (CASE WHEN after IS NOT NULL THEN 3 WHEN before IS NOT NULL THEN 2 WHEN views IS NOT NULL THEN 1 ELSE 0 END)
        ::UTINYINT AS leak,
    ln(after / 1000 + 1)::FLOAT AS leak_delay, ln(place + 1)::FLOAT AS leak_place,
    ln(coalesce(times_after, 0) + 1)::FLOAT AS leak_times, ln(1 - before / 1000)::FLOAT AS seen_since,
    ln(coalesce(times_before, 0) + 1)::FLOAT AS seen_times, ln(coalesce(views, 0) + 1)::FLOAT AS ad_document_views
FROM {part} i
    LEFT JOIN own ON own.display_id = i.display_id AND own.document_id = ad_document_id
    LEFT JOIN viewed ON viewed.document_id = ad_document_id
ORDER BY row
"""


QUERY = Query(select)
