"""What every feature group promises: rows in order, columns as declared, and no label where it does not belong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.runtime import RuntimeConfig
from pipeline.features.base import write_group
from pipeline.features.smoothing import SmoothingConfig
from pipeline.metrics import reciprocal_rank
from pipeline.schemas.features import MULTI_TYPE, SCOPES, Scope, read_columns
from pipeline.schemas.impressions import PARTS, SplitInfo
from pipeline.schemas.raw import DAY_MS
from pipeline.views import ViewsConfig, write_views
from tests.discovery import feature_groups
from tests.synthetic import by_chance

GROUPS = feature_groups()
WITH_LABELS: tuple[Scope, ...] = ("past-clicks", "out-of-fold", "out-of-fold-future")
SHUFFLES = 3


def columns_of(name: str, *scopes: Scope) -> list[str]:
    """The columns of a group that have one of these scopes."""
    return [column.name for column in GROUPS[name].columns if column.scope in scopes]


def groups_with(*scopes: Scope) -> list[str]:
    return [name for name in GROUPS if columns_of(name, *scopes)]


LABELLED = groups_with(*WITH_LABELS)
WITHOUT_LABELS = groups_with("static", "time-causal", "future")
CAUSAL = groups_with("time-causal", "past-clicks")

Compute = Callable[..., Path]
Labels = NDArray[np.uint8]


@pytest.fixture
def compute(tables: Path, splits: dict[str, Path], runtime: RuntimeConfig, tmp_path: Path) -> Compute:
    """compute(group, name): the group for the validation split, or for a changed one, in a folder of that name."""

    def run(group: str, name: str, split: Path = splits["validation"], tables: Path = tables) -> Path:
        with DuckDBEngine(runtime) as engine:
            views = tmp_path / f"{name}-views"
            write_views(engine, tables, split, ViewsConfig(), views)
            smoothing = SmoothingConfig(folds=5, strength=12.0)
            write_group(engine, group, tables, split, views, smoothing, tmp_path / name)
        return tmp_path / name

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def relabelled(split: Path, copy: Path, part: str, change: Callable[[pa.Table], Labels]) -> Path:
    """A copy of a split with other labels in one part."""
    shutil.copytree(split, copy)
    table = pq.read_table(copy / f"{part}.parquet")
    at = table.column_names.index("clicked")
    changed = table.set_column(at, "clicked", pa.array(change(table), pa.uint8()))
    assert changed["clicked"] != table["clicked"]
    pq.write_table(changed, copy / f"{part}.parquet")
    return copy


def starts_of(table: pa.Table) -> NDArray[np.int64]:
    return np.flatnonzero(table["first"].to_numpy())


def shuffle_within_displays(seed: int) -> Callable[[pa.Table], Labels]:
    def shuffle(table: pa.Table) -> Labels:
        starts = starts_of(table)
        lengths = np.diff([*starts, table.num_rows])
        clicked = np.zeros(table.num_rows, np.uint8)
        clicked[starts + np.random.default_rng(seed).integers(0, lengths)] = 1
        return clicked

    return shuffle


def test_groups_were_found() -> None:
    found = {
        "ids",
        "context",
        "views",
        "affinity",
        "leak",
        "rates",
        "crosses",
        "rivals",
        "documents",
        "exposure",
        "trends",
    }
    assert found <= set(GROUPS)
    assert LABELLED
    assert WITHOUT_LABELS
    assert CAUSAL


def test_names_are_unique_over_all_groups_and_twins() -> None:
    names = [column.name for group in GROUPS.values() for column in group.columns]
    twins = [f"{c.name}_bucket" for group in GROUPS.values() for c in group.columns if c.kind == "numeric"]
    assert sorted({*names, *twins}) == sorted([*names, *twins])


@pytest.mark.parametrize("name", GROUPS)
def test_declarations_make_sense(name: str) -> None:
    for column in GROUPS[name].columns:
        dtype = ibis.dtype(column.dtype)
        fits = {
            "categorical": dtype.is_integer() or dtype.is_string(),
            "multi": column.dtype == MULTI_TYPE,
            "numeric": dtype.is_float32(),
        }
        assert fits[column.kind], column
        assert column.meaning, column
        assert column.name.isidentifier(), column
        assert column.scope in SCOPES, column
    assert GROUPS[name].columns


@pytest.mark.parametrize("split", ["validation", "submission"])
@pytest.mark.parametrize("name", GROUPS)
def test_rows_order_columns_and_types(
    splits: dict[str, Path], features: dict[str, Path], name: str, split: str
) -> None:
    folder, columns = features[split] / name, GROUPS[name].columns
    assert read_columns(folder) == columns
    for part in PARTS:
        impressions, table = pq.read_table(splits[split] / f"{part}.parquet"), pq.read_table(folder / f"{part}.parquet")
        assert table.column_names == ["row", "first", *(column.name for column in columns)]
        assert table["row"].equals(impressions["row"])
        assert table["first"].equals(impressions["first"])
        for column in columns:
            assert table.schema.field(column.name).type == ibis.dtype(column.dtype).to_pyarrow(), column
            assert table[column.name].null_count < table.num_rows, f"{column.name} is always unknown"
            if column.kind == "numeric":
                values = table[column.name].drop_null().to_numpy()
                assert np.isfinite(values).all(), f"{column.name}: unknown is null, and there is no infinity"


@pytest.mark.parametrize("name", GROUPS)
def test_display_columns_are_the_same_for_all_ads_of_a_display(features: dict[str, Path], name: str) -> None:
    for part in PARTS:
        table = pq.read_table(features["validation"] / name / f"{part}.parquet")
        starts = starts_of(table)
        first_row = np.repeat(starts, np.diff([*starts, table.num_rows]))
        for column in GROUPS[name].columns:
            if column.per == "display" and column.kind == "multi":
                others = table[column.name].filter(pa.array(first_row != np.arange(table.num_rows)))
                assert others.null_count == len(others), f"{column.name}: a list stands in the first row alone"
            elif column.per == "display":
                first = table[column.name].take(pa.array(first_row))
                assert table[column.name].to_pylist() == first.to_pylist(), column.name


@pytest.mark.parametrize("name", GROUPS)
def test_same_bytes_twice(features: dict[str, Path], compute: Compute, name: str) -> None:
    assert content(compute(name, "again")) == content(features["validation"] / name)


@pytest.mark.parametrize("name", GROUPS)
def test_short_ranges_change_nothing(
    splits: dict[str, Path],
    features: dict[str, Path],
    compute: Compute,
    tmp_path: Path,
    short_ranges: Callable[[Path, Path], Path],
    name: str,
) -> None:
    """Ranges are for the memory's sake: windows, look-ups and order must not depend on where they begin."""
    folder = compute(name, "short", short_ranges(splits["validation"], tmp_path / "split"))
    for part in PARTS:
        found, whole = (pq.read_table(f / f"{part}.parquet") for f in (folder, features["validation"] / name))
        assert found.equals(whole), part


@pytest.mark.parametrize("name", GROUPS)
def test_labels_of_the_target_change_nothing(
    splits: dict[str, Path], features: dict[str, Path], compute: Compute, tmp_path: Path, name: str
) -> None:
    split = relabelled(splits["validation"], tmp_path / "split", "target", shuffle_within_displays(1))
    assert content(compute(name, "relabelled", split)) == content(features["validation"] / name)


@pytest.mark.parametrize("name", WITHOUT_LABELS)
def test_labels_change_no_column_that_declares_not_to_read_them(
    splits: dict[str, Path], features: dict[str, Path], compute: Compute, tmp_path: Path, name: str
) -> None:
    split = relabelled(splits["validation"], tmp_path / "split", "history", shuffle_within_displays(1))
    relabelled_folder, columns = compute(name, "relabelled", split), columns_of(name, "static", "time-causal", "future")
    for part in PARTS:
        found, old = (
            pq.read_table(f / f"{part}.parquet", columns=columns)
            for f in (relabelled_folder, features["validation"] / name)
        )
        assert found.equals(old)


def with_later_displays_in_both_parts(split: Path) -> NDArray[np.int64]:
    """Which displays of history (0, 1, ...) belong to a user who has later ones in history and in target."""
    tables = (pq.read_table(split / f"{part}.parquet", columns=["first", "user_id", "timestamp"]) for part in PARTS)
    history, target = (table.filter(table["first"]).to_pandas() for table in tables)
    later = pd.Series(True, history.index)
    for displays in (history, target):
        later &= history["timestamp"] < history["user_id"].map(displays.groupby("user_id")["timestamp"].max())
    return np.flatnonzero(later)


@pytest.mark.parametrize("at", [0.3, 0.7])
@pytest.mark.parametrize("name", LABELLED)
def test_a_display_does_not_know_its_own_click(
    splits: dict[str, Path], features: dict[str, Path], compute: Compute, tmp_path: Path, name: str, at: float
) -> None:
    """Another ad of one display of history gets the click: that display's features stay, others change, in history and
    in target; so it is a display whose user comes again in both, and whose ads promote different documents."""
    history = pq.read_table(splits["validation"] / "history.parquet")
    starts = starts_of(history)
    ends, document = np.append(starts[1:], history.num_rows), history["ad_document_id"].to_pylist()
    coming_again = [
        display
        for display in with_later_displays_in_both_parts(splits["validation"])
        if len({*document[starts[display] : ends[display]]}) == ends[display] - starts[display]
    ]
    display = coming_again[int(at * len(coming_again))]
    own = np.zeros(history.num_rows, bool)
    own[starts[display] : starts[display + 1]] = True

    def swap(table: pa.Table) -> Labels:
        clicked = table["clicked"].to_numpy().copy()
        clicked[own] = np.roll(clicked[own], 1)
        return clicked

    split = relabelled(splits["validation"], tmp_path / "split", "history", swap)
    swapped, before = compute(name, "swapped", split), features["validation"] / name
    found, old = (pq.read_table(folder / "history.parquet") for folder in (swapped, before))
    assert found.filter(pa.array(own)).equals(old.filter(pa.array(own)))
    assert not found.equals(old), "the click is no part of any other display's features"
    assert (swapped / "target.parquet").read_bytes() != (before / "target.parquet").read_bytes()


def ranked_by(table: pa.Table, column: str, impressions: pa.Table) -> NDArray[np.float64]:
    """(N,) a number, 0 if unknown; of a display's bag of documents, the weight of the row's ad's document in it."""
    if table.schema.field(column).type != ibis.dtype(MULTI_TYPE).to_pyarrow():
        return np.nan_to_num(table[column].to_numpy().astype(np.float64))
    display = np.cumsum(impressions["first"].to_numpy()) - 1
    bags = table[column].filter(impressions["first"]).to_pylist()
    weights = [{pair["id"]: pair["weight"] for pair in bag or ()} for bag in bags]
    documents = zip(display, impressions["ad_document_id"].to_pylist(), strict=True)
    found = np.array([weights[at].get(document, 0.0) for at, document in documents])
    assert found.any(), f"{column}: no bag holds an ad's document"
    return found


@pytest.mark.parametrize("name", LABELLED)
def test_shuffled_labels_leave_no_signal(splits: dict[str, Path], compute: Compute, tmp_path: Path, name: str) -> None:
    """With clicks that mean nothing, no column may rank history's own clicks better or worse than chance."""
    columns = columns_of(name, *WITH_LABELS)
    assert {column.kind for column in GROUPS[name].columns if column.name in columns} <= {"numeric", "multi"}
    gains: dict[str, list[NDArray[np.float64]]] = {}
    lengths: list[int] = []
    for seed in range(SHUFFLES):
        split = relabelled(splits["submission"], tmp_path / f"split{seed}", "history", shuffle_within_displays(seed))
        impressions = pq.read_table(split / "history.parquet")
        table = pq.read_table(compute(name, f"shuffled{seed}", split) / "history.parquet")
        offsets = np.append(starts_of(impressions), impressions.num_rows)
        lengths += np.diff(offsets).tolist()
        for column in columns:
            value = ranked_by(table, column, impressions)
            for sign in (1, -1):
                gain = reciprocal_rank(
                    sign * value,
                    impressions["clicked"].to_numpy(),
                    offsets,
                    impressions["display_id"].to_numpy()[offsets[:-1]],
                    impressions["ad_id"].to_numpy(),
                )
                gains.setdefault(f"{'+-'[sign < 0]}{column}", []).append(gain)
    expected, error = by_chance(tuple(lengths))
    z = {column: (np.concatenate(gain).mean() - expected) / error for column, gain in gains.items()}
    assert {column: value for column, value in z.items() if abs(value) > 4} == {}


@pytest.mark.parametrize("name", GROUPS)
def test_page_views_after_the_end_of_train_change_nothing(
    tables: Path, splits: dict[str, Path], features: dict[str, Path], compute: Compute, tmp_path: Path, name: str
) -> None:
    until = SplitInfo.read(splits["validation"]).views_until
    assert until is not None
    cut = views_before(tables, tmp_path / "tables", until)
    assert content(compute(name, "cut", tables=cut)) == content(features["validation"] / name)


#: Groups that add up what documents are about; others do it as one of these.
ABOUT = ("interests", "affinity", "views", "mf")


@pytest.mark.parametrize("name", ABOUT)
def test_what_documents_are_about_counts_once_however_often_it_is_said(
    tables: Path, features: dict[str, Path], compute: Compute, tmp_path: Path, name: str
) -> None:
    again = shutil.copytree(tables, tmp_path / "tables")
    for file in ("documents_topics", "documents_categories", "documents_entities"):
        table = pq.read_table(again / f"{file}.parquet")
        half = pc.multiply(table["confidence_level"], pa.scalar(0.5, pa.float32()))
        less = table.set_column(2, "confidence_level", half)  # said with less confidence, and with the same
        pq.write_table(pa.concat_tables([table, less, table.slice(0, table.num_rows // 2)]), again / f"{file}.parquet")
    assert content(compute(name, "again", tables=again)) == content(features["validation"] / name)


def views_before(tables: Path, copy: Path, time: int) -> Path:
    shutil.copytree(tables, copy)
    views = pq.read_table(copy / "page_views.parquet")
    earlier = views.filter(pa.array(views["timestamp"].to_numpy() < time))
    assert 0 < earlier.num_rows < views.num_rows
    pq.write_table(earlier, copy / "page_views.parquet")
    days = pq.read_table(copy / "document_views.parquet")
    pq.write_table(days.filter(pa.array(days["day"].to_numpy() < time // DAY_MS)), copy / "document_views.parquet")
    return copy


@pytest.mark.parametrize("name", CAUSAL)
def test_a_time_causal_column_does_not_know_the_page_views_that_come_later(
    tables: Path, splits: dict[str, Path], features: dict[str, Path], compute: Compute, tmp_path: Path, name: str
) -> None:
    history = pq.read_table(splits["validation"] / "history.parquet")
    time = int(np.median(history["timestamp"].drop_null().to_numpy()))
    folder = compute(name, "cut", tables=views_before(tables, tmp_path / "tables", time))
    earlier = pa.array(history["timestamp"].fill_null(time).to_numpy() < time)
    columns = columns_of(name, "static", "time-causal", "past-clicks")
    found, old = (
        pq.read_table(f / "history.parquet", columns=columns) for f in (folder, features["validation"] / name)
    )
    assert found.filter(earlier).equals(old.filter(earlier))


def without_displays_after(split: Path, copy: Path, time: int) -> Path:
    """A copy of a split whose displays all come before a time; rows are numbered anew."""
    shutil.copytree(split, copy)
    for part in PARTS:
        table = pq.read_table(copy / f"{part}.parquet")
        earlier = table.filter(pa.array(table["timestamp"].fill_null(time).to_numpy() < time))
        assert 0 < earlier.num_rows < table.num_rows
        numbered = earlier.set_column(0, "row", pa.array(np.arange(earlier.num_rows)))
        pq.write_table(numbered, copy / f"{part}.parquet")
    return copy


@pytest.mark.parametrize("name", CAUSAL)
def test_a_time_causal_column_does_not_know_the_displays_and_clicks_that_come_later(
    splits: dict[str, Path], features: dict[str, Path], compute: Compute, tmp_path: Path, name: str
) -> None:
    history = pq.read_table(splits["validation"] / "history.parquet")
    time = int(np.median(history["timestamp"].drop_null().to_numpy()))
    folder = compute(name, "cut", without_displays_after(splits["validation"], tmp_path / "split", time))
    columns = columns_of(name, "static", "time-causal", "past-clicks")
    for part in PARTS:
        rows = pq.read_table(splits["validation"] / f"{part}.parquet")
        earlier = pa.array(rows["timestamp"].fill_null(time).to_numpy() < time)
        old = pq.read_table(features["validation"] / name / f"{part}.parquet", columns=columns)
        found = pq.read_table(folder / f"{part}.parquet", columns=columns)
        assert found.equals(old.filter(earlier))
