"""Where and when a display is shown."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.features.base import Group, Inputs
from pipeline.schemas.features import category
from pipeline.schemas.raw import DAY_MS

HOUR_MS = 3_600_000


def build(inputs: Inputs) -> ir.Table:
    table = inputs.impressions
    return table.mutate(
        hour=table.timestamp // HOUR_MS % 24,
        daypart=table.timestamp // (4 * HOUR_MS) % 6,
        weekday=table.timestamp // DAY_MS % 7,
        region=table.country + ibis.literal(">") + table.state,
    )


GROUP = Group(
    scope="static",
    columns=(
        category("platform", "uint8", "1 desktop, 2 mobile, 3 tablet", "display"),
        category("country", "string", "the user's country", "display"),
        category("region", "string", "the user's country and state", "display"),
        category("dma", "string", "the user's market area (US)", "display"),
        category("hour", "uint8", "hours since 04:00 UTC, the hour at which the competition's days start", "display"),
        category("daypart", "uint8", "hour, in six parts of four", "display"),
        category("weekday", "uint8", "days since a Tuesday, modulo 7", "display"),
    ),
    build=build,
)
