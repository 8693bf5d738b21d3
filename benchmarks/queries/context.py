"""Where and when a display is."""

from __future__ import annotations

from benchmarks.queries.base import Query
from pipeline.schemas.impressions import Part


def select(part: Part) -> str:
    return f"""
SELECT row, first, platform, country, country || '>' || state AS region, dma,
    (timestamp // 3600000 % 24)::UTINYINT AS hour, (timestamp // 14400000 % 6)::UTINYINT AS daypart,
    (timestamp // 86400000 % 7)::UTINYINT AS weekday
FROM {part} ORDER BY row
"""


QUERY = Query(select)
