"""Where an ad, or what it is about, is clicked more than elsewhere: its lift at each place against its own."""

from __future__ import annotations

from benchmarks.queries.base import Query
from benchmarks.queries.smoothing import BEFORE, COUNTS, KEYS, SUMS, by, gains
from benchmarks.queries.subjects import strongest
from pipeline.schemas.impressions import Part

_KEYS = KEYS | {"ad_category": "ad_category", "ad_topic": "ad_topic"}
#: Place -> what it is of an impression, with the page's row of documents_meta beside it.
_PLACES = {
    "publisher": "publisher_id",
    "source": "source_id",
    "page": "i.document_id",
    "country": "country",
    "state": "country || '>' || state",
    "platform": "platform",
    "daypart": "timestamp // 14400000 % 6",
}
_ADS = """CREATE TEMP TABLE ads AS  -- ad_id, name, key: all that an ad is known by
    WITH known AS (
        SELECT ad_id, ad_id AS ad, document_id AS ad_document, campaign_id AS campaign, advertiser_id AS advertiser,
            category_id AS ad_category, topic_id AS ad_topic
        FROM (SELECT DISTINCT ad_id FROM history) LEFT JOIN promoted_content USING (ad_id)
            LEFT JOIN category USING (document_id) LEFT JOIN topic USING (document_id)
    )
    UNPIVOT known ON ad, ad_document, campaign, advertiser, ad_category, ad_topic INTO NAME name VALUE key"""


def _placed(part: Part) -> str:
    places = ", ".join(f"{what} AS {place}" for place, what in _PLACES.items())
    return f"""
SELECT row, first, clicked, ads, i.display_id, ad_id, ad_document_id, campaign_id, advertiser_id,
    fold(display_id) AS fold, {places}
FROM {part} i LEFT JOIN documents_meta page ON page.document_id = i.document_id
"""


def select(part: Part) -> str:
    tables = ", ".join(
        f"""{place}_gains AS (
            {gains(part, "everywhere", f"{place}_counts", ["name", "key"], [place], "getvariable('strength')")}
        )"""
        for place in _PLACES
    )
    pairs = [(f"{name}_by_{place}", name, place) for name in _KEYS for place in _PLACES]
    joins = " ".join(
        f"LEFT JOIN (FROM {place}_gains WHERE name = '{name}') {column} ON {column}.key = i.{_KEYS[name]}"
        f"{''.join(f' AND {column}.{own} = i.{own}' for own in by(part, place))}"
        for column, name, place in pairs
    )
    return f"""
WITH i AS (
        SELECT placed.*, category_id AS ad_category, topic_id AS ad_topic
        FROM ({_placed(part)}) placed LEFT JOIN category ON category.document_id = ad_document_id
            LEFT JOIN topic ON topic.document_id = ad_document_id
    ),
    {tables}
SELECT row, first, {", ".join(f"coalesce({column}.gain, 0)::FLOAT AS {column}" for column, *_ in pairs)}
FROM i {joins} ORDER BY row
"""


QUERY = Query(
    select,
    [
        *BEFORE,
        f"CREATE TEMP TABLE category AS {strongest('category')}",
        f"CREATE TEMP TABLE topic AS {strongest('topic')}",
        _ADS,
        f"CREATE TEMP VIEW placed AS {_placed('history')}",
        f"""CREATE TEMP TABLE everywhere AS SELECT name, key, fold, {SUMS}
            FROM (SELECT ad_id, fold, {COUNTS} FROM placed GROUP BY ALL) JOIN ads USING (ad_id) GROUP BY ALL""",
        *(
            f"""CREATE TEMP TABLE {place}_counts AS SELECT name, key, {place}, fold, {SUMS}
            FROM (SELECT ad_id, {place}, fold, {COUNTS} FROM placed WHERE {place} IS NOT NULL GROUP BY ALL)
                JOIN ads USING (ad_id)
            GROUP BY ALL"""
            for place in _PLACES
        ),
    ],
)
