"""Who meets what: the ids of ad, page and user, and what their documents are about."""

from __future__ import annotations

import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import SUBJECTS, about, bags
from pipeline.schemas.features import bag, category


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


GROUP = Group(
    scope="static",
    columns=(
        category("ad_id", "uint32", "the ad"),
        category("ad_document_id", "uint32", "the document that the ad promotes"),
        category("campaign_id", "uint32", "the ad's campaign"),
        category("advertiser_id", "uint32", "the ad's advertiser"),
        category("ad_source_id", "uint32", "the source of the promoted document"),
        category("ad_publisher_id", "uint32", "the publisher of the promoted document"),
        bag("ad_category", "categories of the promoted document, with their confidence"),
        bag("ad_topic", "topics of the promoted document, with their confidence"),
        category("user_id", "uint32", "the user", "display"),
        category("page_id", "uint32", "the page on which the display stands", "display"),
        category("page_source_id", "uint32", "the page's source", "display"),
        category("page_publisher_id", "uint32", "the page's publisher", "display"),
        bag("page_category", "categories of the page, with their confidence", per="display"),
        bag("page_topic", "topics of the page, with their confidence", per="display"),
    ),
    build=build,
)
