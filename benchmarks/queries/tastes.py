"""What users of one interest click: lifts of ads among those who view the same category, topic or publisher most."""

from __future__ import annotations

from benchmarks.queries.base import Query
from benchmarks.queries.smoothing import BEFORE, COUNTS, by, gains
from benchmarks.queries.subjects import read, strongest
from pipeline.schemas.impressions import Part

#: What is read of a user, and what is met there most -> the keys of an ad that are crossed with it.
_TASTES = {
    "category_interest": ("ad_category", "campaign", "advertiser"),
    "topic_interest": ("ad_topic", "campaign", "advertiser"),
    "category_profile": ("ad_category", "campaign", "advertiser"),
    "publisher_profile": ("campaign", "advertiser"),
}
_COLUMN = {
    "campaign": "campaign_id",
    "advertiser": "advertiser_id",
    "ad_category": "ad_category",
    "ad_topic": "ad_topic",
}
_PAIRS = [(key, taste) for taste, keys in _TASTES.items() for key in keys]
_MAIN = (
    f"CREATE TEMP TABLE category AS {strongest('category')}",
    f"CREATE TEMP TABLE topic AS {strongest('topic')}",
    """CREATE TEMP TABLE main AS
        SELECT 'category' AS label, document_id, category_id AS id FROM category
        UNION ALL SELECT 'topic', document_id, topic_id FROM topic
        UNION ALL SELECT 'publisher', document_id, publisher_id FROM documents_meta WHERE publisher_id IS NOT NULL""",
)


def _described(part: Part) -> str:
    """The impressions of a part with fold, the main subjects of the ad, and what the user meets most: of what is met
    equally often the smallest id."""
    most = ", ".join(
        f"arg_max(id, {read} * 4294967296 - id) FILTER (label = '{label}' AND {read} > 0) AS {taste}"
        for taste in _TASTES
        for label, read in [taste.split("_")]
    )
    return f"""
WITH read AS ({read(part)}),
    times AS (
        SELECT display_id, label, id, count(*) FILTER (interest) AS interest, count(*) FILTER (profile) AS profile
        FROM read JOIN main USING (document_id) GROUP BY ALL
    ),
    tastes AS (SELECT display_id, {most} FROM times GROUP BY ALL)
SELECT row, first, clicked, ads, campaign_id, advertiser_id, category_id AS ad_category, topic_id AS ad_topic,
    fold(i.display_id) AS fold, {", ".join(_TASTES)}
FROM {part} i LEFT JOIN tastes ON tastes.display_id = i.display_id
    LEFT JOIN category ON category.document_id = ad_document_id LEFT JOIN topic ON topic.document_id = ad_document_id
"""


def select(part: Part) -> str:
    known = {
        f"{key}_by_{taste}": gains(part, f"{key}_counts", f"{key}_{taste}_counts", [_COLUMN[key]], [taste])
        for key, taste in _PAIRS
    }
    joins = " ".join(
        f"LEFT JOIN {key}_by_{taste} USING ({', '.join(by(part, _COLUMN[key], taste))})" for key, taste in _PAIRS
    )
    source = "described" if part == "history" else f"({_described(part)})"
    return f"""
WITH {", ".join(f"{name} AS ({gain})" for name, gain in known.items())}
SELECT row, first, {", ".join(f"coalesce({name}.gain, 0)::FLOAT AS {name}" for name in known)}
FROM {source} {joins} ORDER BY row
"""


QUERY = Query(
    select,
    [
        *BEFORE,
        *_MAIN,
        f"CREATE TEMP TABLE described AS {_described('history')}",
        *(
            f"CREATE TEMP TABLE {key}_counts AS SELECT {column}, fold, {COUNTS} FROM described "
            f"WHERE {column} IS NOT NULL GROUP BY ALL"
            for key, column in _COLUMN.items()
        ),
        *(
            f"CREATE TEMP TABLE {key}_{taste}_counts AS SELECT {_COLUMN[key]}, {taste}, fold, {COUNTS} FROM described "
            f"WHERE {_COLUMN[key]} IS NOT NULL AND {taste} IS NOT NULL GROUP BY ALL"
            for key, taste in _PAIRS
        ),
    ],
)
