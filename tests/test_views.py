"""Page views by display, and the groups that read them, against plain loops."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import views as module
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.runtime import RuntimeConfig
from pipeline.features.subjects import UNIT
from pipeline.schemas.impressions import PARTS, SplitInfo
from pipeline.views import ViewsConfig, write_views

Rows = list[dict[str, Any]]
SPLITS = ("validation", "submission")


def rows(path: Path) -> Rows:
    return pq.read_table(path).to_pylist()


def by_user(tables: Path, until: int | None) -> dict[int, list[tuple[int, int]]]:
    """user_id -> (timestamp, document_id) of all the views that the split may know."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for view in rows(tables / "page_views.parquet"):
        if view["user_id"] is not None and (until is None or view["timestamp"] < until):
            found[view["user_id"]].append((view["timestamp"], view["document_id"]))
    return found


def around(display: dict[str, Any], viewed: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """(delay, document_id) of the views that are kept of a display's user, in order."""
    delays = [(at - display["timestamp"], doc) for at, doc in viewed if doc != display["document_id"]]
    nearest = sorted(delays, key=lambda pair: (abs(pair[0]), pair[1]))
    before, after = ([p for p in nearest if (p[0] < 0) == side][:most] for side in (True, False))
    return sorted([*before, *after])


@pytest.mark.parametrize("most", [50, 2])
@pytest.mark.parametrize("split", SPLITS)
def test_views_are_those_of_the_displays_user(
    tables: Path, splits: dict[str, Path], runtime: RuntimeConfig, tmp_path: Path, split: str, most: int
) -> None:
    with DuckDBEngine(runtime) as engine:
        write_views(engine, tables, splits[split], ViewsConfig(most=most), tmp_path / "views")
    viewed = by_user(tables, SplitInfo.read(splits[split]).views_until)
    for part in PARTS:
        expected = [
            (display["display_id"], doc, delay)
            for display in rows(splits[split] / f"{part}.parquet")
            if display["first"] and display["user_id"] is not None
            for delay, doc in around(display, viewed[display["user_id"]], most)
        ]
        found = [tuple(row.values()) for row in rows(tmp_path / "views" / f"{part}.parquet")]
        assert len(found) > 100
        assert found == expected


def test_documents_count_everybodys_views(tables: Path, splits: dict[str, Path], views: dict[str, Path]) -> None:
    until = SplitInfo.read(splits["validation"]).views_until
    counts: dict[int, int] = defaultdict(int)
    for view in rows(tables / "page_views.parquet"):
        if until is None or view["timestamp"] < until:
            counts[view["document_id"]] += 1
    found = [(row["document_id"], row["views"]) for row in rows(views["validation"] / "documents.parquet")]
    assert found == sorted(counts.items())


def test_buckets_change_nothing(
    tables: Path,
    splits: dict[str, Path],
    views: dict[str, Path],
    runtime: RuntimeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BUCKET_ROWS", pq.read_metadata(tables / "page_views.parquet").num_rows // 5)
    with DuckDBEngine(runtime) as engine:
        write_views(engine, tables, splits["validation"], ViewsConfig(), tmp_path / "views")
    for path in views["validation"].iterdir():
        assert path.read_bytes() == (tmp_path / "views" / path.name).read_bytes(), path.name


def test_leak_against_loops(splits: dict[str, Path], views: dict[str, Path], features: dict[str, Path]) -> None:
    seen = {row["document_id"]: row["views"] for row in rows(views["validation"] / "documents.parquet")}
    delays: dict[tuple[int, int], list[int]] = defaultdict(list)
    for view in rows(views["validation"] / "history.parquet"):
        delays[view["display_id"], view["document_id"]].append(view["delay"])
    states = set()
    found = rows(features["validation"] / "leak" / "history.parquet")
    for row, leak in zip(rows(splits["validation"] / "history.parquet"), found, strict=True):
        own = delays.get((row["display_id"], row["ad_document_id"]), [])
        after = [delay for delay in own if delay >= 0]
        state = 3 if after else 2 if own else int(row["ad_document_id"] in seen)
        assert leak["leak"] == state
        assert leak["ad_document_views"] == pytest.approx(math.log(1 + seen.get(row["ad_document_id"], 0)), rel=1e-6)
        assert (leak["leak_delay"] is None) == (not after)
        if after:
            assert leak["leak_delay"] == pytest.approx(math.log(1 + min(after) / 1000), rel=1e-6)
        states.add(state)
    assert states >= {0, 1, 3}


def vectors(tables: Path, subject: str) -> dict[int, dict[int, int]]:
    """document_id -> id -> confidence times idf, in whole units."""
    name = {"topic": "documents_topics", "category": "documents_categories"}[subject]
    table = rows(tables / f"{name}.parquet")
    total = len({row["document_id"] for row in table})
    documents: dict[int, int] = defaultdict(int)
    for row in table:
        documents[row[f"{subject}_id"]] += 1
    found: dict[int, dict[int, int]] = defaultdict(dict)
    for row in table:
        idf = math.log(total / documents[row[f"{subject}_id"]]) + 0.1
        found[row["document_id"]][row[f"{subject}_id"]] = round(row["confidence_level"] * idf * UNIT)
    return found


def cosine(a: dict[int, int], b: dict[int, int]) -> float:
    product = sum(weight * b.get(key, 0) for key, weight in a.items())
    return product / math.sqrt(sum(w * w for w in a.values()) * sum(w * w for w in b.values()))


@pytest.mark.parametrize("subject", ["topic", "category"])
def test_affinity_against_loops(
    tables: Path, splits: dict[str, Path], views: dict[str, Path], features: dict[str, Path], subject: str
) -> None:
    about = vectors(tables, subject)
    read: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for view in rows(views["validation"] / "history.parquet"):
        if view["delay"] < 0:
            for key, weight in about.get(view["document_id"], {}).items():
                read[view["display_id"]][key] += weight
    compared = 0
    found = rows(features["validation"] / "affinity" / "history.parquet")
    for row, features_of in zip(rows(splits["validation"] / "history.parquet"), found, strict=True):
        ad = about.get(row["ad_document_id"])
        sides = {"page": about.get(row["document_id"]), "user": read.get(row["display_id"])}
        for side, profile in sides.items():
            value = features_of[f"{side}_ad_{subject}"]
            assert (value is None) == (not ad or not profile)
            if ad and profile and min(sum(ad.values()), sum(profile.values())) > UNIT / 100:
                assert value == pytest.approx(cosine(profile, ad), abs=0.02)
                compared += value > 0.1
    assert compared > 100


def test_viewed_fields_against_loops(
    tables: Path, splits: dict[str, Path], views: dict[str, Path], features: dict[str, Path]
) -> None:
    source_of = {row["document_id"]: row["source_id"] for row in rows(tables / "documents_meta.parquet")}
    before: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for view in rows(views["validation"] / "history.parquet"):
        if view["delay"] < 0:
            before[view["display_id"]].append((-view["delay"], view["document_id"]))
    found = rows(features["validation"] / "views" / "history.parquet")
    for row, got in zip(rows(splits["validation"] / "history.parquet"), found, strict=True):
        latest = [doc for _, doc in sorted(before[row["display_id"]])[:20]]
        for label, values in (("document", latest), ("source", [source_of.get(doc) for doc in latest])):
            counts: dict[int, float] = defaultdict(float)
            for value in values:
                if value is not None:
                    counts[value] += 1
            expected = [{"id": key, "weight": weight} for key, weight in sorted(counts.items())]
            assert (got[f"viewed_{label}"] or []) == expected
        assert got["views_before"] == pytest.approx(math.log(1 + len(latest)), rel=1e-6)
