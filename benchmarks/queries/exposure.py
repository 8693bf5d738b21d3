"""What the user saw, clicked and skipped in other displays, and will see again: windows over what each user met."""

from __future__ import annotations

from benchmarks.queries.base import Query
from benchmarks.queries.smoothing import KEYS
from benchmarks.queries.subjects import strongest
from pipeline.schemas.impressions import Part

#: What two ads may have in common -> its column.
_COMMON = KEYS | {name: f"{name}_id" for name in ("publisher", "source", "category", "topic")}
_MEASURES = ("saw", "clicked", "skipped", "since", "again")
_TIMED = ("ad", "ad_document", "campaign")  # what has `since`, too
_IMPRESSIONS = " UNION ALL ".join(
    f"""SELECT display_id, first, user_id, timestamp, {clicked} AS clicked, {", ".join(KEYS.values())}
        FROM {part} WHERE user_id IS NOT NULL"""
    for part, clicked in {"history": "clicked", "target": "NULL::UTINYINT"}.items()
)
_BEFORE = (
    f"""CREATE TEMP TABLE returned AS  -- the impressions of users with several displays
        WITH impressions AS ({_IMPRESSIONS}),
            category AS ({strongest("category")}),
            topic AS ({strongest("topic")})
        SELECT impressions.*, publisher_id, source_id, category_id, topic_id
        FROM impressions
            SEMI JOIN (SELECT user_id FROM impressions WHERE first GROUP BY ALL HAVING count(*) > 1) USING (user_id)
            LEFT JOIN documents_meta meta ON meta.document_id = ad_document_id
            LEFT JOIN category ON category.document_id = ad_document_id
            LEFT JOIN topic ON topic.document_id = ad_document_id""",
    f"""CREATE TEMP TABLE exposure AS
        WITH named AS (
                UNPIVOT (SELECT display_id, user_id, timestamp, clicked, {", ".join(_COMMON.values())} FROM returned)
                ON {", ".join(f"{column} AS {name}" for name, column in _COMMON.items())} INTO NAME name VALUE id
            ),
            met AS (
                SELECT name, id, user_id, display_id, timestamp, coalesce(max(clicked) = 1, false) AS clicked,
                    count(clicked) > 0 AS labelled
                FROM named GROUP BY ALL
            )
        SELECT name, id, display_id, count(*) OVER earlier AS saw, count_if(clicked) OVER earlier AS clicked,
            count_if(labelled AND NOT clicked) OVER earlier AS skipped, count(*) OVER later AS again,
            timestamp - max(timestamp) OVER earlier AS since
        FROM met
        WINDOW earlier AS (
                PARTITION BY name, id, user_id ORDER BY timestamp RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ),
            later AS (
                PARTITION BY name, id, user_id ORDER BY timestamp RANGE BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
            )
        QUALIFY saw > 0 OR again > 0""",
)


def _log(measure: str, name: str) -> str:
    column = f"{measure}_{name}"
    return f"ln({f'{column} / 1000' if measure == 'since' else f'coalesce({column}, 0)'} + 1)::FLOAT AS {column}"


def select(part: Part) -> str:
    measures = [(measure, name) for name in _COMMON for measure in _MEASURES if measure != "since" or name in _TIMED]
    of_ads = ", ".join(f"{name}.{measure} AS {measure}_{name}" for measure, name in measures)
    joins = " ".join(
        f"LEFT JOIN (FROM exposure WHERE name = '{name}') {name}"
        f" ON {name}.display_id = returned.display_id AND {name}.id = returned.{column}"
        for name, column in _COMMON.items()
    )
    return f"""
WITH met AS (
        SELECT returned.display_id, returned.ad_id, {of_ads}
        FROM returned {joins}
    ),
    clicks AS (SELECT user_id, timestamp, ad_document_id AS id FROM returned WHERE clicked = 1 AND id IS NOT NULL),
    times AS (
        SELECT display_id, id, count(*)::FLOAT AS weight
        FROM returned own JOIN clicks ON clicks.user_id = own.user_id AND clicks.timestamp < own.timestamp
        WHERE first GROUP BY ALL
    ),
    clicked AS (
        SELECT display_id, list(struct_pack(id := id, weight := weight) ORDER BY id) AS clicked_documents
        FROM times GROUP BY ALL
    )
SELECT row, first, {", ".join(_log(*measure) for measure in measures)}, clicked_documents
FROM {part} i LEFT JOIN met ON met.display_id = i.display_id AND met.ad_id = i.ad_id
    LEFT JOIN clicked ON clicked.display_id = i.display_id AND first
ORDER BY row
"""


QUERY = Query(select, _BEFORE)
