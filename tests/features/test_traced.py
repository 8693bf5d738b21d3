"""What users did, as fitted groups read it: page views and what became of ads, against loops over the tables."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.collaborative.viewed import CLICKED, PASSED, VIEWED, read_traced, read_viewed
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.features import dkt
from pipeline.features.base import Sources
from pipeline.schemas.raw import DAY_MS

EVERYBODY = 10**9
Did = tuple[int, int, int]


def shown_to(rows: list[dict[str, Any]]) -> dict[int, list[Did]]:
    """user -> (time, what, document) of the ads in its displays."""
    found = defaultdict(list)
    for row in rows:
        if row["user_id"] is not None and row["ad_document_id"] is not None:
            what = CLICKED if row["clicked"] else PASSED
            found[row["user_id"]].append((row["timestamp"], what, row["ad_document_id"]))
    return found


@pytest.fixture(params=["page views", "none"])
def some_views(request: pytest.FixtureRequest, tables: Path, tmp_path: Path) -> Path:
    """The tables, once with all page views and once without any."""
    if request.param == "page views":
        return tables
    folder = tmp_path / "tables"
    folder.mkdir()
    for path in tables.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "page_views.parquet").unlink()
    pq.write_table(pq.read_table(tables / "page_views.parquet")[:0], folder / "page_views.parquet")
    return folder


@pytest.mark.parametrize("until", [None, 5 * DAY_MS])
def test_what_users_did_in_order(
    some_views: Path, sparse: tuple[Path, Path], engine: DuckDBEngine, until: int | None
) -> None:
    """Pages of displays count as viewed where no view of the day tells of them."""
    tables, history = some_views, sparse[1] / "history.parquet"
    displays = pq.read_table(history).to_pylist()
    expected = shown_to(displays)
    viewed: dict[int, list[Did]] = defaultdict(list)
    for row in pq.read_table(tables / "page_views.parquet").to_pylist():
        if until is None or row["timestamp"] < until:
            viewed[row["user_id"]].append((row["timestamp"], VIEWED, row["document_id"]))
    known = {(user, document, time // DAY_MS) for user, did in viewed.items() for time, _, document in did}
    without_view = 0
    for row in displays:
        user, document, time = row["user_id"], row["document_id"], row["timestamp"]
        if not row["first"] or None in (user, document) or (until is not None and time >= until):
            continue
        if (user, document, time // DAY_MS) not in known:
            viewed[user].append((time, VIEWED, document))
            without_view += 1
    assert known or without_view > 50
    both = {user: sorted(expected.get(user, []) + viewed.get(user, [])) for user in {*expected, *viewed}}
    found = read_traced(engine, tables, history, until, EVERYBODY)
    rows = zip(found.time.tolist(), found.what.tolist(), found.document.tolist(), strict=True)
    assert list(rows) == [did for user in sorted(both) for did in both[user]]
    np.testing.assert_array_equal(found.user, np.repeat(np.arange(len(both)), [len(both[u]) for u in sorted(both)]))
    np.testing.assert_array_equal(found.day, found.time // DAY_MS)
    assert set(found.what.tolist()) == {VIEWED, PASSED, CLICKED}
    views = read_viewed(engine, tables, history, until, EVERYBODY)
    liked = {user: [(time, document) for time, what, document in did if what != PASSED] for user, did in both.items()}
    assert views.document.tolist() == [document for user in sorted(liked) for _, document in sorted(liked[user])]


def test_a_sample_has_whole_users(tables: Path, sparse: tuple[Path, Path], engine: DuckDBEngine) -> None:
    history = sparse[1] / "history.parquet"
    users = pq.read_metadata(tables / "users.parquet").num_rows
    some, every = (read_traced(engine, tables, history, None, most) for most in (users // 4, EVERYBODY))
    sizes, all_sizes = np.bincount(some.user), np.bincount(every.user)
    assert 0.15 < len(sizes) / len(all_sizes) < 0.35
    assert (some.what == CLICKED).any()
    assert set(sizes.tolist()) <= set(all_sizes.tolist())


def test_before_a_display(
    sparse: tuple[Path, Path], views: dict[str, Path], engine: DuckDBEngine, tmp_path: Path
) -> None:
    """Of target's displays, too, the ads are those of history; of the earlier ones, the latest."""
    tables, split = sparse
    sources = Sources(tables, split, views["validation"])
    shown = shown_to(pq.read_table(split / "history.parquet").to_pylist())
    met, most, more = 0, 4, 0
    for part in ("history", "target"):
        viewed = defaultdict(list)
        for row in pq.read_table(sources.views(part)).to_pylist():
            if row["delay"] < 0:
                viewed[row["display_id"]].append((row["delay"], VIEWED, row["document_id"]))
        rows = engine.table(sources.impressions(part))
        engine.write(dkt._before(engine, sources, part, most, rows).order_by(dkt._BEFORE), tmp_path / "before.parquet")
        found = defaultdict(list)
        for row in pq.read_table(tmp_path / "before.parquet").to_pylist():
            found[row["display_id"]].append((row["delay"], row["what"], row["document_id"]))
        for row in pq.read_table(sources.impressions(part)).to_pylist():
            if row["first"]:
                now, expected = row["timestamp"], viewed[row["display_id"]]
                if row["user_id"] is not None:
                    ads = sorted((time - now, what, ad) for time, what, ad in shown[row["user_id"]] if time < now)
                    expected = expected + ads[-most:]
                    met, more = met + bool(ads), more + (len(ads) > most)
                assert found[row["display_id"]] == sorted(expected)
    assert met > 50
    assert more > 10
