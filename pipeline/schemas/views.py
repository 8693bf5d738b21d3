"""The border between views and features: data/views/SPLIT, the page views of a split's users, by display.

{history,target}.parquet   display_id, document_id, delay (int64), traffic_source: a view of the display's user, `delay`
                           ms after the display (negative: before it), and whence (1 internal, 2 search, 3 social, or
                           null); sorted by display_id, delay, document_id, traffic_source
documents.parquet          document_id, views (int64): how often anybody viewed it; sorted by document_id
"""

from __future__ import annotations

#: column -> Ibis type
VIEWS: dict[str, str] = {
    "display_id": "uint32",
    "document_id": "uint32",
    "delay": "int64",
    "traffic_source": "uint8",
}
DOCUMENT_VIEWS: dict[str, str] = {"document_id": "uint32", "views": "int64"}
