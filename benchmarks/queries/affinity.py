"""How close the promoted document is to the page, to what the user viewed before, and to what the user viewed after:
cosines of sums of sparse vectors."""

from __future__ import annotations

from benchmarks.queries.base import Part, Query
from benchmarks.queries.subjects import LABELS, about

#: Side -> labels that are compared.
_SIDES = {"page": ("category", "topic", "entity"), "user": LABELS, "later": LABELS}
_ABOUT = " UNION ALL ".join(
    f"SELECT '{label}' AS label, document_id, id::VARCHAR AS name, weight FROM ({about(label)})" for label in LABELS
)
_BEFORE = (
    # confidence x idf; in whole ten-thousandths, since the stage rounds them so, and as DOUBLE, which sums them exactly
    f"""CREATE TEMP TABLE named AS
        WITH about AS ({_ABOUT}),
            totals AS (SELECT label, count(DISTINCT document_id)::DOUBLE AS documents FROM about GROUP BY ALL),
            known AS (SELECT label, name, count(*) AS documents FROM about GROUP BY ALL)
        SELECT document_id, label, name,
            round(weight::DOUBLE * (ln(totals.documents / known.documents) + 0.1) * 10000) AS weight
        FROM about JOIN known USING (label, name) JOIN totals USING (label)""",
    # one number says label and name
    "CREATE TEMP TABLE terms AS SELECT label, name, row_number() OVER ()::UINTEGER AS term FROM named GROUP BY ALL",
    """CREATE TEMP TABLE vectors AS
        SELECT document_id, label, term, weight FROM named JOIN terms USING (label, name)""",
    f"""CREATE TEMP TABLE lengths AS SELECT document_id,
            {", ".join(f"sum(weight * weight) FILTER (label = '{label}') AS {label}" for label in LABELS)}
        FROM vectors GROUP BY ALL""",
    """CREATE TEMP MACRO cosine(product, one, other) AS
        CASE WHEN one > 0 AND other > 0 THEN coalesce(product, 0) / sqrt(one * other) END""",
)


def _by_label(value: str, side: str) -> str:
    """Sums of each label that a side compares."""
    return ", ".join(f"sum({value}) FILTER (label = '{label}') AS {side}_{label}" for label in _SIDES[side])


def select(part: Part) -> str:
    of_side = {"page": "of_page.{label}", "user": "squares.user_{label}", "later": "squares.later_{label}"}
    cosines = ", ".join(
        f"cosine({'of_pair' if side == 'page' else 'products'}.{side}_{label}, {of_side[side].format(label=label)}, "
        f"of_ad.{label})::FLOAT AS {side}_ad_{label}"
        for side, labels in _SIDES.items()
        for label in labels
    )
    return f"""
WITH sums AS (
        SELECT display_id, label, term, sum(weight) FILTER (delay < 0) AS earlier,
            sum(weight) FILTER (delay >= 0) AS later
        FROM {part}_views JOIN vectors USING (document_id) GROUP BY ALL
    ),
    squares AS (
        SELECT display_id, {_by_label("earlier * earlier", "user")}, {_by_label("later * later", "later")}
        FROM sums GROUP BY ALL
    ),
    products AS (
        SELECT row, {_by_label("ad.weight * earlier", "user")}, {_by_label("ad.weight * later", "later")}
        FROM {part} i JOIN (SELECT document_id, term, weight FROM vectors) ad ON ad.document_id = ad_document_id
            JOIN sums ON sums.display_id = i.display_id AND sums.term = ad.term
        GROUP BY ALL
    ),
    pairs AS (SELECT DISTINCT document_id AS page, ad_document_id AS ad FROM {part}),
    of_pair AS (
        SELECT page, ad, {_by_label("one.weight * other.weight", "page")}
        FROM pairs JOIN vectors one ON one.document_id = page
            JOIN (SELECT document_id, term, weight FROM vectors) other
                ON other.document_id = ad AND other.term = one.term
        WHERE label IN {_SIDES["page"]} GROUP BY ALL
    )
SELECT row, first, {cosines}
FROM {part} i LEFT JOIN squares ON squares.display_id = i.display_id LEFT JOIN products USING (row)
    LEFT JOIN of_pair ON page = i.document_id AND ad = ad_document_id
    LEFT JOIN lengths of_page ON of_page.document_id = i.document_id
    LEFT JOIN lengths of_ad ON of_ad.document_id = ad_document_id
ORDER BY row
"""


QUERY = Query(select, _BEFORE)
