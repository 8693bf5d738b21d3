"""Who and what the documents of ad and page name: people, places, organisations, with their confidence.

They are many and each is rare, so most say nothing to a model of ids that categories and topics do not; `affinity`
holds how alike ad, page and user are in them.
"""

from __future__ import annotations

import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.subjects import about, bags
from pipeline.schemas.features import bag


def build(inputs: Inputs) -> ir.Table:
    table, listed = inputs.impressions, inputs.once(bags(about(inputs, "entity"), "document_id", "entities"))
    for name, key in {"page_entity": "document_id", "ad_entity": "ad_document_id"}.items():
        table = look_up(table, listed.rename({name: "entities"}), {key: "document_id"})
    return table


GROUP = Group(
    scope="static",
    columns=(
        bag("ad_entity", "entities that the promoted document names, with their confidence"),
        bag("page_entity", "entities that the page names, with their confidence", per="display"),
    ),
    build=build,
)
