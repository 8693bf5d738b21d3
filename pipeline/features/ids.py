"""Who meets what: the ids of ad, page and user, and what their documents are about."""

from __future__ import annotations

import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import SUBJECTS, about, bags
from pipeline.schemas.features import MULTI_TYPE, Column


def build(inputs: Inputs) -> ir.Table:
    table = inputs.impressions.rename(page_id="document_id")
    meta = inputs.table("documents_meta").select("document_id", "source_id", "publisher_id")
    for side, key in {"page": "page_id", "ad": "ad_document_id"}.items():
        known = meta.rename({f"{side}_source_id": "source_id", f"{side}_publisher_id": "publisher_id"})
        table = look_up(table, known, {key: "document_id"})
        for subject in SUBJECTS:
            listed = inputs.once(bags(about(inputs, subject), "document_id", "about"))
            table = look_up(table, listed.rename({f"{side}_{subject}": "about"}), {key: "document_id"})
    return table


def _one(name: str, meaning: str, per: str = "impression") -> Column:
    return Column(name=name, kind="categorical", dtype="uint32", meaning=meaning, per=per)  # type: ignore[arg-type]


def _many(name: str, meaning: str, per: str = "impression") -> Column:
    return Column(name=name, kind="multi", dtype=MULTI_TYPE, meaning=meaning, per=per)  # type: ignore[arg-type]


GROUP = Group(
    scope="static",
    columns=(
        _one("ad_id", "the ad"),
        _one("ad_document_id", "the document that the ad promotes"),
        _one("campaign_id", "the ad's campaign"),
        _one("advertiser_id", "the ad's advertiser"),
        _one("ad_source_id", "the source of the promoted document"),
        _one("ad_publisher_id", "the publisher of the promoted document"),
        _many("ad_category", "categories of the promoted document, with their confidence"),
        _many("ad_topic", "topics of the promoted document, with their confidence"),
        _one("user_id", "the user", "display"),
        _one("page_id", "the page on which the display stands", "display"),
        _one("page_source_id", "the page's source", "display"),
        _one("page_publisher_id", "the page's publisher", "display"),
        _many("page_category", "categories of the page, with their confidence", "display"),
        _many("page_topic", "topics of the page, with their confidence", "display"),
    ),
    build=build,
)
