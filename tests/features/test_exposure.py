"""What users saw, clicked, skipped and see again, against plain loops over all pairs of their displays."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

Rows = list[dict[str, Any]]
KEYS = ("ad", "ad_document", "campaign", "advertiser", "publisher", "source", "category", "topic")


@pytest.fixture(scope="session")
def known(sparse: tuple[Path, Path]) -> dict[int, dict[str, int | None]]:
    """What each document is by source and publisher, and most about."""
    found: dict[int, dict[str, int | None]] = defaultdict(dict)
    for row in pq.read_table(sparse[0] / "documents_meta.parquet").to_pylist():
        found[row["document_id"]] |= {name: row[f"{name}_id"] for name in ("source", "publisher")}
    for name, table in (("category", "documents_categories"), ("topic", "documents_topics")):
        rows = pq.read_table(sparse[0] / f"{table}.parquet").to_pylist()
        for row in sorted(rows, key=lambda row: (row["confidence_level"], -row[f"{name}_id"])):
            found[row["document_id"]][name] = row[f"{name}_id"]
    return found


def displays_by_user(
    parts: dict[str, tuple[Rows, Rows]], known: dict[int, dict[str, int | None]]
) -> dict[int, dict[int, Rows]]:
    """user_id -> display_id -> the ads shown, each with its KEYS; `clicked` is None in target."""
    users: dict[int, dict[int, Rows]] = defaultdict(lambda: defaultdict(list))
    for part, (rows, _) in parts.items():
        for row in rows:
            if row["user_id"] is not None:
                keys = {f"{key}_id": row[f"{key}_id"] for key in KEYS[:4]} | known[row["ad_document_id"]]
                clicked = row["clicked"] if part == "history" else None
                ad = {key: keys.get(f"{key}_id", keys.get(key)) for key in KEYS}
                ad |= {"clicked": clicked, "time": row["timestamp"], "row": (part, row["row"])}
                users[row["user_id"]][row["display_id"]].append(ad)
    return users


def exposure(own: dict[str, Any], others: list[Rows], key: str) -> dict[str, float]:
    """The measures of one ad by one key, from the user's other displays."""
    count: Counter[str] = Counter()
    times = []
    for display in others:
        same = [ad for ad in display if own[key] is not None and ad[key] == own[key]]
        before = own["time"] - display[0]["time"]
        if same and before > 0:
            times.append(before)
            count["saw"] += 1
            count["clicked"] += any(ad["clicked"] == 1 for ad in same)
            count["skipped"] += all(ad["clicked"] == 0 for ad in same)
        count["again"] += bool(same) and before < 0
    since = math.log1p(min(times) / 1000) if times else math.nan
    counts = {f"{name}_{key}": math.log1p(count[name]) for name in ("saw", "clicked", "skipped", "again")}
    return counts | ({f"since_{key}": since} if key in KEYS[:3] else {})


def test_exposure(values_of: Callable[..., Any], known: dict[int, dict[str, int | None]]) -> None:
    parts = values_of("exposure")
    users = displays_by_user(parts, known)
    compared: Counter[str] = Counter()
    described = set()
    for displays in users.values():
        for display in displays:
            others = [other for name, other in displays.items() if name != display]
            clicks = Counter(
                ad["ad_document"]
                for other in others
                for ad in other
                if ad["clicked"] == 1 and ad["time"] < displays[display][0]["time"] and ad["ad_document"] is not None
            )
            for own in displays[display]:
                part, row = own["row"]
                values = parts[part][1][row]
                described.add(own["row"])
                expected = {name: value for key in KEYS for name, value in exposure(own, others, key).items()}
                numbers = {name: math.nan if values[name] is None else values[name] for name in expected}
                assert numbers == pytest.approx(expected, rel=1e-6, nan_ok=True), own
                documents = [{"id": i, "weight": n} for i, n in sorted(clicks.items())] if values["first"] else []
                assert values["clicked_documents"] == (documents or None), own
                compared.update(name for name, value in expected.items() if value > 0)
                compared["clicked_documents"] += bool(clicks)
    assert min(compared[name] for name in parts["history"][1][0] if name not in ("row", "first")) > 5, compared
    for part, (_, found) in parts.items():
        for values in found:
            if (part, values["row"]) not in described:  # a display without a user
                counts = [value for name, value in values.items() if not name.startswith(("since_", "clicked_doc"))]
                assert [value for value in counts[2:] if value != 0] == [], values
