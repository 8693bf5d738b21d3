"""How close the promoted document is to the page and to what the user viewed: cosines of sparse vectors, by label."""

from __future__ import annotations

from benchmarks.queries.base import Query
from benchmarks.queries.subjects import LABELS, about
from pipeline.schemas.impressions import Part

#: Side -> labels that are compared.
_SIDES = {"page": ("category", "topic", "entity"), "user": LABELS, "later": LABELS}


def _before(label: str) -> list[str]:
    """The vectors of documents, and the squares of their lengths."""
    return [
        # confidence x idf, in whole ten-thousandths, as the stage rounds them; as DOUBLE, which holds their sums. The
        # ids of entities are texts, so all are numbered.
        f"""CREATE TEMP TABLE {label} AS
            WITH about AS ({about(label)})
            SELECT document_id, dense_rank() OVER (ORDER BY id)::UINTEGER AS id, round(weight::DOUBLE * (
                    ln((SELECT count(DISTINCT document_id) FROM about)::DOUBLE / count(*) OVER (PARTITION BY id)) + 0.1
                ) * 10000) AS weight
            FROM about""",
        f"""CREATE TEMP TABLE {label}_lengths AS
            SELECT document_id, sum(weight * weight) AS square FROM {label} GROUP BY ALL""",
    ]


def _viewed(part: Part, label: str) -> str:
    """The sums of what was viewed on both sides of a display, their squares, and their products with each ad."""
    return f"""
    {label}_sums AS (
        SELECT display_id, id, sum(weight) FILTER (delay < 0) AS earlier, sum(weight) FILTER (delay >= 0) AS later
        FROM {part}_views JOIN {label} USING (document_id) GROUP BY ALL
    ),
    {label}_squares AS (
        SELECT display_id, sum(earlier * earlier) AS user, sum(later * later) AS later
        FROM {label}_sums GROUP BY ALL
    ),
    {label}_products AS (
        SELECT row, sum(ad.weight * earlier) AS user, sum(ad.weight * later) AS later
        FROM {part} i JOIN {label} ad ON ad.document_id = ad_document_id
            JOIN {label}_sums sums ON sums.display_id = i.display_id AND sums.id = ad.id
        GROUP BY ALL
    )"""


def _pages(label: str) -> str:
    """The products of pages and ads."""
    return f"""
    {label}_pairs AS (
        SELECT page, ad, sum(one.weight * other.weight) AS product
        FROM pairs JOIN {label} one ON one.document_id = page
            JOIN {label} other ON other.document_id = ad AND other.id = one.id
        GROUP BY ALL
    )"""


def _cosine(side: str, label: str) -> str:
    product, square = (f"{label}_{table}.{side}" for table in ("products", "squares"))
    if side == "page":
        product, square = f"{label}_pairs.product", f"{label}_page.square"
    return f"cosine({product}, {square}, {label}_ad.square)::FLOAT AS {side}_ad_{label}"


def select(part: Part) -> str:
    cosines = ", ".join(_cosine(side, label) for side, labels in _SIDES.items() for label in labels)
    joins = [
        f"""LEFT JOIN {label}_lengths {label}_ad ON {label}_ad.document_id = ad_document_id
    LEFT JOIN {label}_squares ON {label}_squares.display_id = i.display_id
    LEFT JOIN {label}_products ON {label}_products.row = i.row"""
        for label in LABELS
    ]
    joins += [
        f"""LEFT JOIN {label}_lengths {label}_page ON {label}_page.document_id = i.document_id
    LEFT JOIN {label}_pairs ON {label}_pairs.page = i.document_id AND {label}_pairs.ad = ad_document_id"""
        for label in _SIDES["page"]
    ]
    return f"""
WITH {", ".join(_viewed(part, label) for label in LABELS)},
    pairs AS (SELECT DISTINCT document_id AS page, ad_document_id AS ad FROM {part}),
    {", ".join(map(_pages, _SIDES["page"]))}
SELECT i.row, first, {cosines}
FROM {part} i {" ".join(joins)}
ORDER BY i.row
"""


QUERY = Query(
    select,
    [
        *(statement for label in LABELS for statement in _before(label)),
        """CREATE TEMP MACRO cosine(product, one, other) AS
            CASE WHEN one > 0 AND other > 0 THEN coalesce(product, 0) / sqrt(one * other) END""",
    ],
)
