"""The other ads of a display, and what the user viewed of them, against plain loops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def test_rivals(values_of: Callable[..., Any], tmp_path: Path) -> None:
    keys = {"ad": "ad_id", "ad_document": "ad_document_id", "campaign": "campaign_id"}
    met = set()
    for part, (rows, found) in values_of("rivals").items():
        viewed: dict[str, set[tuple[int, int]]] = {"before": set(), "after": set()}
        for view in pq.read_table(tmp_path / "views" / f"{part}.parquet").to_pylist():
            viewed["before" if view["delay"] < 0 else "after"].add((view["display_id"], view["document_id"]))
        displays = defaultdict(list)
        for row in rows:
            displays[row["display_id"]].append(row)
        for row, values in zip(rows, found, strict=True):
            others = [other for other in displays[row["display_id"]] if other is not row]
            assert values["rivals"] == len(others)
            for name, key in keys.items():
                ids = [other[key] for other in others if other[key] is not None]
                listed = values[f"rival_{name}"]
                assert (listed or []) == [{"id": key_id, "weight": 1.0} for key_id in ids], row
                met.add((name, len(ids) < len(others)))
            for when, documents in viewed.items():
                count = sum((row["display_id"], other["ad_document_id"]) in documents for other in others)
                assert values[f"rivals_viewed_{when}"] == count, row
                met.add((when, count > 0))
    assert {(when, some) for when in ("before", "after") for some in (True, False)} <= met
    assert {("ad", False), ("campaign", True)} <= met
