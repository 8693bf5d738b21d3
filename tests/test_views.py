"""Page views by display, and the groups that read them, against plain loops."""

from __future__ import annotations

import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.runtime import RuntimeConfig
from pipeline.features.subjects import LABELS, UNIT
from pipeline.schemas.impressions import PARTS, SplitInfo
from pipeline.views import ViewsConfig, write_views

Rows = list[dict[str, Any]]
View = tuple[int, int, int]
SPLITS = ("validation", "submission")


def rows(path: Path) -> Rows:
    return pq.read_table(path).to_pylist()


def by_user(tables: Path, until: int | None) -> dict[int, list[View]]:
    """user_id -> (timestamp, document_id, traffic_source) of all the views that the split may know."""
    found: dict[int, list[View]] = defaultdict(list)
    for view in rows(tables / "page_views.parquet"):
        if until is None or view["timestamp"] < until:
            found[view["user_id"]].append((view["timestamp"], view["document_id"], view["traffic_source"]))
    return found


def around(display: dict[str, Any], viewed: list[View], most: int) -> list[View]:
    """(delay, document_id, traffic_source) of the views that are kept of a display's user, in order."""
    delays = [(at - display["timestamp"], doc, whence) for at, doc, whence in viewed if doc != display["document_id"]]
    nearest = sorted(delays, key=lambda view: (abs(view[0]), *view[1:]))
    before, after = ([view for view in nearest if (view[0] < 0) == side][:most] for side in (True, False))
    return sorted([*before, *after])


def check_views(found: Path, tables: Path, split: Path, most: int) -> None:
    """Both parts of a folder of views, against a loop over the displays."""
    viewed = by_user(tables, SplitInfo.read(split).views_until)
    for part in PARTS:
        expected = [
            (display["display_id"], doc, delay, whence)
            for display in rows(split / f"{part}.parquet")
            if display["first"] and display["user_id"] is not None
            for delay, doc, whence in around(display, viewed[display["user_id"]], most)
        ]
        assert len(expected) > 100
        assert [tuple(row.values()) for row in rows(found / f"{part}.parquet")] == expected


@pytest.mark.parametrize("most", [50, 2])
@pytest.mark.parametrize("split", SPLITS)
def test_views_are_those_of_the_displays_user(
    tables: Path, splits: dict[str, Path], runtime: RuntimeConfig, tmp_path: Path, split: str, most: int
) -> None:
    with DuckDBEngine(runtime) as engine:
        write_views(engine, tables, splits[split], ViewsConfig(most=most), tmp_path / "views")
    check_views(tmp_path / "views", tables, splits[split], most)


def test_documents_count_everybodys_views(
    raw: Path, tables: Path, splits: dict[str, Path], views: dict[str, Path]
) -> None:
    file = pcsv.read_csv(raw / "page_views.csv")
    assert file.num_rows > 2 * pq.read_metadata(tables / "page_views.parquet").num_rows
    for split in SPLITS:
        until = SplitInfo.read(splits[split]).views_until
        pairs = zip(file["document_id"].to_pylist(), file["timestamp"].to_pylist(), strict=True)
        counts = Counter(doc for doc, at in pairs if until is None or at < until)
        found = [(row["document_id"], row["views"]) for row in rows(views[split] / "documents.parquet")]
        assert found == sorted(counts.items())


def test_only_whole_days_can_be_counted(
    tables: Path, splits: dict[str, Path], runtime: RuntimeConfig, tmp_path: Path
) -> None:
    split = shutil.copytree(splits["validation"], tmp_path / "split")
    info = SplitInfo.read(split)
    assert info.views_until is not None
    replace(info, views_until=info.views_until + 1).write(split)
    with DuckDBEngine(runtime) as engine, pytest.raises(ValueError, match="border of days"):
        write_views(engine, tables, split, ViewsConfig(), tmp_path / "views")
    assert not (tmp_path / "views").exists()


def test_ranges_of_users_change_nothing(
    tables: Path,
    splits: dict[str, Path],
    views: dict[str, Path],
    runtime: RuntimeConfig,
    tmp_path: Path,
    short_ranges: Callable[[Path, Path], Path],
) -> None:
    copy = short_ranges(tables, tmp_path / "tables")
    with DuckDBEngine(runtime) as engine:
        assert len(list(engine.ranges(copy / "page_views.parquet", "user_id"))) > 5
        write_views(engine, copy, splits["validation"], ViewsConfig(), tmp_path / "views")
    check_views(tmp_path / "views", tables, splits["validation"], most=50)
    for path in views["validation"].iterdir():
        assert path.read_bytes() == (tmp_path / "views" / path.name).read_bytes(), path.name


def test_no_page_views_are_no_views(
    tables: Path, splits: dict[str, Path], runtime: RuntimeConfig, tmp_path: Path
) -> None:
    copy = shutil.copytree(tables, tmp_path / "tables")
    for name in ("page_views", "document_views"):
        pq.write_table(pq.read_table(copy / f"{name}.parquet").slice(0, 0), copy / f"{name}.parquet")
    with DuckDBEngine(runtime) as engine:
        write_views(engine, copy, splits["submission"], ViewsConfig(), tmp_path / "views")
    for name in (*PARTS, "documents"):
        assert rows(tmp_path / "views" / f"{name}.parquet") == []


def test_leak_against_loops(splits: dict[str, Path], views: dict[str, Path], features: dict[str, Path]) -> None:
    seen = {row["document_id"]: row["views"] for row in rows(views["validation"] / "documents.parquet")}
    viewed: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for view in rows(views["validation"] / "history.parquet"):
        viewed[view["display_id"]].append((view["delay"], view["document_id"]))
    states, places, times = set(), set(), set()
    found = rows(features["validation"] / "leak" / "history.parquet")
    for row, leak in zip(rows(splits["validation"] / "history.parquet"), found, strict=True):
        later = sorted(pair for pair in viewed[row["display_id"]] if pair[0] >= 0)
        own = [delay for delay, document in viewed[row["display_id"]] if document == row["ad_document_id"]]
        before, after = [delay for delay in own if delay < 0], [delay for delay in own if delay >= 0]
        place = next((i for i, (_, document) in enumerate(later) if document == row["ad_document_id"]), None)
        expected = {
            "leak": 3 if after else 2 if own else int(row["ad_document_id"] in seen),
            "leak_delay": math.log(1 + min(after) / 1000) if after else None,
            "leak_place": None if place is None else math.log(1 + place),
            "leak_times": math.log(1 + len(after)),
            "seen_since": math.log(1 - max(before) / 1000) if before else None,
            "seen_times": math.log(1 + len(before)),
            "ad_document_views": math.log(1 + seen.get(row["ad_document_id"], 0)),
        }
        for name, value in expected.items():
            assert leak[name] == (value if value is None else pytest.approx(value, rel=1e-6)), name
        states.add(expected["leak"])
        places.add(place)
        times.add((len(before), len(after)))
    assert states == {0, 1, 2, 3}
    assert {None, 0, 1, 2} <= places
    assert {(0, 0), (1, 0), (0, 1)} <= times


def vectors(tables: Path, label: str) -> dict[int, dict[int | str, int]]:
    """document_id -> id -> confidence times idf, in whole units."""
    names = {"topic": "documents_topics", "category": "documents_categories", "entity": "documents_entities"}
    path = tables / f"{names.get(label, 'documents_meta')}.parquet"
    table = [row for row in rows(path) if row[f"{label}_id"] is not None]
    total = len({row["document_id"] for row in table})
    documents: dict[int, int] = defaultdict(int)
    for row in table:
        documents[row[f"{label}_id"]] += 1
    found: dict[int, dict[int | str, int]] = defaultdict(dict)
    for row in table:
        idf = math.log(total / documents[row[f"{label}_id"]]) + 0.1
        found[row["document_id"]][row[f"{label}_id"]] = round(row.get("confidence_level", 1.0) * idf * UNIT)
    return found


def cosine(a: dict[int | str, int], b: dict[int | str, int]) -> float:
    product = sum(weight * b.get(key, 0) for key, weight in a.items())
    return product / math.sqrt(sum(w * w for w in a.values()) * sum(w * w for w in b.values()))


@pytest.mark.parametrize("label", LABELS)
def test_affinity_against_loops(
    tables: Path, splits: dict[str, Path], views: dict[str, Path], features: dict[str, Path], label: str
) -> None:
    about = vectors(tables, label)
    read: dict[str, dict[int, dict[int | str, int]]]
    read = {side: defaultdict(lambda: defaultdict(int)) for side in ("user", "later")}
    for view in rows(views["validation"] / "history.parquet"):
        for key, weight in about.get(view["document_id"], {}).items():
            read["user" if view["delay"] < 0 else "later"][view["display_id"]][key] += weight
    compared: dict[str, int] = defaultdict(int)
    found = rows(features["validation"] / "affinity" / "history.parquet")
    for row, features_of in zip(rows(splits["validation"] / "history.parquet"), found, strict=True):
        ad = about.get(row["ad_document_id"])
        sides = {side: profiles.get(row["display_id"]) for side, profiles in read.items()}
        if label in ("category", "topic", "entity"):
            sides["page"] = about.get(row["document_id"])
        for side, profile in sides.items():
            value = features_of[f"{side}_ad_{label}"]
            if ad and profile and any(ad.values()) and any(profile.values()):
                assert value == pytest.approx(cosine(profile, ad), abs=1e-5)
                compared[side] += value > 0.1
            else:
                assert value is None
    assert min(compared[side] for side in sides) > 20, compared


@pytest.mark.parametrize("field", ["viewed", "next"])
def test_viewed_fields_against_loops(
    tables: Path, splits: dict[str, Path], views: dict[str, Path], features: dict[str, Path], field: str
) -> None:
    meta = {row["document_id"]: row for row in rows(tables / "documents_meta.parquet")}
    about: dict[str, dict[int, dict[int, float]]] = {"topic": defaultdict(dict), "category": defaultdict(dict)}
    for label, name in (("topic", "documents_topics"), ("category", "documents_categories")):
        for row in rows(tables / f"{name}.parquet"):
            about[label][row["document_id"]][row[f"{label}_id"]] = row["confidence_level"]
    around: dict[int, list[tuple[int, int]]] = defaultdict(list)
    sources: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for view in rows(views["validation"] / "history.parquet"):
        around[view["display_id"]].append((view["delay"], view["document_id"]))
        sources[view["display_id"]].append((view["delay"], view["traffic_source"]))
    found = rows(features["validation"] / "views" / "history.parquet")
    filled: dict[str, int] = defaultdict(int)
    for row, got in zip(rows(splits["validation"] / "history.parquet"), found, strict=True):
        before = sorted((-delay, document) for delay, document in around[row["display_id"]] if delay < 0)
        after = sorted((delay, document) for delay, document in around[row["display_id"]] if delay >= 0)
        hour = [(delay, document) for delay, document in after[:20] if delay < 3_600_000]
        chosen = [document for _, document in (before[:20] if field == "viewed" else hour)]
        if not row["first"]:  # where a display's lists stand
            chosen = []
        weights: dict[str, list[tuple[int | None, float]]] = {
            "document": [(document, 1) for document in chosen],
            **{
                label: [(meta.get(document, {}).get(f"{label}_id"), 1) for document in chosen]
                for label in ("source", "publisher")
            },
            **{
                label: [pair for document in chosen for pair in found_in[document].items()]
                for label, found_in in about.items()
            },
        }
        for label, values in weights.items():
            totals: dict[int, float] = defaultdict(float)
            for value, weight in values:
                if value is not None:
                    totals[value] += weight
            bag = got[f"{field}_{label}"] or []
            assert [pair["id"] for pair in bag] == sorted(totals)
            assert [pair["weight"] for pair in bag] == pytest.approx([totals[key] for key in sorted(totals)], abs=2e-3)
            filled[label] += bool(bag)
        assert got["views_before"] == pytest.approx(math.log(1 + len(before)), rel=1e-6)
        assert got["views_after"] == pytest.approx(math.log(1 + len(after)), rel=1e-6)
        for number, traffic in enumerate(("internal", "search", "social"), 1):
            delays = [delay for delay, source in sources[row["display_id"]] if source == number]
            earlier = sum(delay < 0 for delay in delays)
            assert got[f"{traffic}_before"] == pytest.approx(math.log(1 + earlier), rel=1e-6)
            assert got[f"{traffic}_after"] == pytest.approx(math.log(1 + len(delays) - earlier), rel=1e-6)
    assert min(filled[label] for label in weights) > 100, filled
