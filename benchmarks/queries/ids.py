"""What displays and ads are named, and what their documents are about."""

from __future__ import annotations

from benchmarks.queries.base import Query
from pipeline.schemas.impressions import Part


def select(part: Part) -> str:
    return f"""
WITH category AS (
        SELECT document_id,
            list(struct_pack(id := category_id, weight := confidence_level) ORDER BY category_id) AS about
        FROM documents_categories GROUP BY ALL
    ),
    topic AS (
        SELECT document_id,
            list(struct_pack(id := topic_id, weight := confidence_level) ORDER BY topic_id) AS about
        FROM documents_topics GROUP BY ALL
    )
SELECT row, first, ad_id, ad_document_id, campaign_id, advertiser_id, ad.source_id AS ad_source_id,
    ad.publisher_id AS ad_publisher_id, cat_ad.about AS ad_category, top_ad.about AS ad_topic, user_id,
    i.document_id AS page_id, page.source_id AS page_source_id, page.publisher_id AS page_publisher_id,
    CASE WHEN first THEN cat_page.about END AS page_category, CASE WHEN first THEN top_page.about END AS page_topic
FROM {part} i
    LEFT JOIN documents_meta page ON page.document_id = i.document_id
    LEFT JOIN documents_meta ad ON ad.document_id = ad_document_id
    LEFT JOIN category cat_page ON cat_page.document_id = i.document_id
    LEFT JOIN category cat_ad ON cat_ad.document_id = ad_document_id
    LEFT JOIN topic top_page ON top_page.document_id = i.document_id
    LEFT JOIN topic top_ad ON top_ad.document_id = ad_document_id
ORDER BY row
"""


QUERY = Query(select)
