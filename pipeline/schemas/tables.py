"""The typed tables that ingest writes: data/tables/NAME.parquet.

Ids are unsigned 32-bit, `timestamp` and `publish_time` are milliseconds after the competition's epoch (int64; see
`raw.EPOCH_MS`), the geo_location is split at `>` into country, state and dma, and a user is a dense number: `user_id`
counts the distinct uuids of events in the order of their first displays, `users` keeps the map. What a raw file leaves
unknown is null.
"""

from __future__ import annotations

#: name -> {column: DuckDB type}
TABLES: dict[str, dict[str, str]] = {
    "clicks_train": {"display_id": "UINTEGER", "ad_id": "UINTEGER", "clicked": "UTINYINT"},  # sorted by both ids
    "clicks_test": {"display_id": "UINTEGER", "ad_id": "UINTEGER"},  # sorted by both ids
    "events": {  # sorted by display_id
        "display_id": "UINTEGER",
        "user_id": "UINTEGER",
        "document_id": "UINTEGER",
        "timestamp": "BIGINT",
        "platform": "UTINYINT",
        "country": "VARCHAR",
        "state": "VARCHAR",
        "dma": "VARCHAR",
    },
    "users": {"user_id": "UINTEGER", "uuid": "VARCHAR"},  # sorted by user_id
    # Page views of the users who have an event, sorted by user_id, timestamp, document_id, then the other columns. This
    # and the next have no rows if there is no raw file or data.page_views is none.
    "page_views": {
        "user_id": "UINTEGER",
        "document_id": "UINTEGER",
        "timestamp": "BIGINT",
        "platform": "UTINYINT",
        "country": "VARCHAR",
        "state": "VARCHAR",
        "dma": "VARCHAR",
        "traffic_source": "UTINYINT",
    },
    # How often anybody, with or without an event, viewed a document on a day (timestamp // raw.DAY_MS); sorted by both.
    "document_views": {"document_id": "UINTEGER", "day": "SMALLINT", "views": "BIGINT"},
    "promoted_content": {
        "ad_id": "UINTEGER",
        "document_id": "UINTEGER",
        "campaign_id": "UINTEGER",
        "advertiser_id": "UINTEGER",
    },
    "documents_meta": {
        "document_id": "UINTEGER",
        "source_id": "UINTEGER",
        "publisher_id": "UINTEGER",
        "publish_time": "BIGINT",
    },
    "documents_categories": {"document_id": "UINTEGER", "category_id": "UINTEGER", "confidence_level": "FLOAT"},
    "documents_topics": {"document_id": "UINTEGER", "topic_id": "UINTEGER", "confidence_level": "FLOAT"},
    "documents_entities": {"document_id": "UINTEGER", "entity_id": "VARCHAR", "confidence_level": "FLOAT"},
}
