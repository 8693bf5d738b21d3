"""Where and when a display is shown, and how old the page and the promoted documents are then."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.schemas.features import Column
from pipeline.schemas.raw import DAY_MS

HOUR_MS = 3_600_000


def _age(table: ir.Table, publish_time: ir.Column) -> ir.Value:
    """Signed log(1 + days) between publication and display: the first days matter most; negative if published later."""
    days = (table.timestamp - publish_time).cast("float64") / DAY_MS
    return days.sign() * (days.abs() + 1).ln()


def build(inputs: Inputs) -> ir.Table:
    table = inputs.impressions
    meta = inputs.table("documents_meta")
    meta = meta.filter(meta.publish_time.notnull()).select("document_id", "publish_time")
    for side, key in {"page": "document_id", "ad": "ad_document_id"}.items():
        table = look_up(table, meta.rename({f"{side}_published": "publish_time"}), {key: "document_id"})
    return table.mutate(
        hour=table.timestamp // HOUR_MS % 24,
        weekday=table.timestamp // DAY_MS % 7,
        region=table.country + ibis.literal(">") + table.state,
        page_age=_age(table, table.page_published),
        ad_age=_age(table, table.ad_published),
    )


def _shown(name: str, dtype: str, meaning: str) -> Column:
    return Column(name=name, kind="categorical", dtype=dtype, meaning=meaning, per="display")


GROUP = Group(
    scope="static",
    columns=(
        _shown("platform", "uint8", "1 desktop, 2 mobile, 3 tablet"),
        _shown("country", "string", "the user's country"),
        _shown("region", "string", "the user's country and state"),
        _shown("dma", "string", "the user's market area (US)"),
        _shown("hour", "uint8", "hours since 04:00 UTC, the hour at which the competition's days start"),
        _shown("weekday", "uint8", "days since a Tuesday, modulo 7"),
        Column(name="page_age", kind="numeric", dtype="float32", meaning="age of the page, log days", per="display"),
        Column(name="ad_age", kind="numeric", dtype="float32", meaning="age of the promoted document, log days"),
    ),
    build=build,
)
