"""Page and promoted document side by side."""

from __future__ import annotations

from benchmarks.queries.base import Query
from benchmarks.queries.subjects import strongest
from pipeline.schemas.impressions import Part

_AGE = "CREATE TEMP MACRO age(ms) AS (sign(ms) * ln(abs(ms) / 86400000 + 1))::FLOAT"  # signed log days


def select(part: Part) -> str:
    return f"""
WITH category AS ({strongest("category")}),
    topic AS ({strongest("topic")}),
    meta AS (
        FROM documents_meta LEFT JOIN category USING (document_id) LEFT JOIN topic USING (document_id)
    ),
    daily AS (
        SELECT document_id, day, sum(views) OVER (PARTITION BY document_id ORDER BY day) AS until FROM document_views
    ),
    i AS (SELECT *, timestamp // 86400000 - 1 AS yesterday FROM {part})
SELECT row, first,
    age(timestamp - page.publish_time) AS page_age, age(timestamp - ad.publish_time) AS ad_age,
    age(ad.publish_time - page.publish_time) AS page_ad_age,
    (page.source_id = ad.source_id)::UTINYINT AS same_source,
    (page.publisher_id = ad.publisher_id)::UTINYINT AS same_publisher,
    (page.category_id = ad.category_id)::UTINYINT AS same_category,
    (page.topic_id = ad.topic_id)::UTINYINT AS same_topic,
    ln(coalesce(of_page.until, 0) + 1)::FLOAT AS page_views_before,
    ln(coalesce(of_ad.until, 0) + 1)::FLOAT AS ad_views_before
FROM i LEFT JOIN meta page ON page.document_id = i.document_id LEFT JOIN meta ad ON ad.document_id = ad_document_id
    ASOF LEFT JOIN daily of_page ON of_page.document_id = i.document_id AND i.yesterday >= of_page.day
    ASOF LEFT JOIN daily of_ad ON of_ad.document_id = ad_document_id AND i.yesterday >= of_ad.day
ORDER BY row
"""


QUERY = Query(select, [_AGE])
