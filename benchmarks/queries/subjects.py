"""What documents are about, as the queries of several groups select it."""

from __future__ import annotations

from pipeline.schemas.impressions import Part

_TABLES = {
    "category": ("documents_categories", "category_id"),
    "topic": ("documents_topics", "topic_id"),
    "entity": ("documents_entities", "entity_id"),
}
LABELS = (*_TABLES, "source", "publisher")
#: What stands in `documents_categories` and the like is unique; a file that names a pair again says no more by it.
_ABOUT = "SELECT document_id, {id} AS id, max(confidence_level) AS weight FROM {table} GROUP BY ALL"


def about(label: str) -> str:
    """document_id, id, weight (FLOAT)."""
    if label in _TABLES:
        table, column = _TABLES[label]
        return _ABOUT.format(id=column, table=table)
    column = f"{label}_id"
    return f"SELECT document_id, {column} AS id, 1::FLOAT AS weight FROM documents_meta WHERE {column} IS NOT NULL"


def in_units(label: str) -> str:
    """The same with whole weights: ten-thousandths, which the stage adds up; as DOUBLE, which holds their sums."""
    return f"SELECT document_id, id, round(weight * 10000)::DOUBLE AS weight FROM ({about(label)})"


def strongest(label: str) -> str:
    """document_id and LABEL_id: the category (or topic) that each document is most about."""
    table, column = _TABLES[label]
    return f"""
        SELECT document_id, {column} FROM {table}
        QUALIFY row_number() OVER (PARTITION BY document_id ORDER BY confidence_level DESC, {column}) = 1
    """


def read(part: Part) -> str:
    """display_id, document_id, interest, profile: which pages count for the interest of a display's user, and which for
    the profile. Those viewed after it count for none if they are promoted: they tell what was clicked."""
    return f"""
        SELECT display_id, document_id, true AS interest, false AS profile
        FROM {part} WHERE first AND document_id IS NOT NULL
        UNION ALL SELECT display_id, document_id, true, true FROM {part}_views WHERE delay < 0
        UNION ALL SELECT display_id, document_id, false, true FROM {part}_views
            ANTI JOIN promoted_content USING (document_id) WHERE delay >= 0
    """
