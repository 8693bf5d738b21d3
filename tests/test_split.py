"""The two splits against a straightforward reference in pandas."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.core.config import parse
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.errors import InputError, ParameterError
from pipeline.schemas.impressions import COLD, IMPRESSIONS, PARTS, SplitInfo
from pipeline.schemas.raw import DAY_MS
from pipeline.split import SplitConfig, SplitName, write_split
from pipeline.stages.split import main

NULLABLE = {
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.string(): pd.StringDtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def read(path: Path) -> pd.DataFrame:
    return pq.read_table(path).to_pandas(types_mapper=NULLABLE.get)


def reference(tables: Path, name: str, config: SplitConfig) -> dict[str, pd.DataFrame]:
    """What the docstrings say, with the whole table in memory."""
    train, test, events, promoted = (
        read(tables / f"{table}.parquet") for table in ("clicks_train", "clicks_test", "events", "promoted_content")
    )
    days = events[events.display_id.isin(train.display_id)].timestamp // DAY_MS
    train_end = (days.max() + 1) * DAY_MS if len(days) else None
    reaches = config.future_days > 0 and len(days) > 0 and days.max() - days.min() + 1 > config.future_days
    validation_from = train_end - config.future_days * DAY_MS if reaches else None
    future_from = validation_from if name == "validation" else train_end

    def describe(clicks: pd.DataFrame) -> pd.DataFrame:
        rows = clicks.sort_values(["display_id", "ad_id"], ignore_index=True)
        rows["ads"] = rows.groupby("display_id").ad_id.transform("size")
        rows["first"] = ~rows.display_id.duplicated()
        rows = rows.merge(events, on="display_id", how="left")
        rows = rows.merge(promoted.rename(columns={"document_id": "ad_document_id"}), on="ad_id", how="left")
        rows["future"] = False if future_from is None else (rows.timestamp >= future_from).fillna(False)
        return rows

    if name == "submission":
        parts = {"history": describe(train), "target": describe(test.assign(clicked=pd.NA))}
    else:
        rows = describe(train)
        present = rows.display_id % config.present_modulus == config.present_remainder
        parts = {"history": rows[~(rows.future | present)], "target": rows[rows.future | present]}
    parts = {part: rows.reset_index(drop=True) for part, rows in parts.items()}
    for flag, key in zip(COLD, ("ad_id", "user_id", "document_id"), strict=True):
        known = set(parts["history"][key].dropna())
        parts["target"][flag] = [pd.isna(value) or value not in known for value in parts["target"][key]]
    return {
        part: rows.assign(row=range(len(rows)))[[*IMPRESSIONS, *(COLD if part == "target" else ())]]
        for part, rows in parts.items()
    }


def compare(folder: Path, expected: dict[str, pd.DataFrame]) -> None:
    for part in PARTS:
        found = read(folder / f"{part}.parquet")
        assert len(found), part
        pd.testing.assert_frame_equal(found, expected[part].astype(found.dtypes.to_dict()), obj=part)


CONFIGS = [
    SplitConfig(),
    SplitConfig(future_days=0),
    SplitConfig(future_days=5, present_modulus=2, present_remainder=0),
    SplitConfig(future_days=1, present_modulus=10, present_remainder=9),
    SplitConfig(future_days=99),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_validation_is_the_reference(tables: Path, engine: DuckDBEngine, tmp_path: Path, config: SplitConfig) -> None:
    write_split(engine, tables, "validation", config, tmp_path / "split")
    compare(tmp_path / "split", reference(tables, "validation", config))


def test_submission_is_the_reference_and_knows_no_label_of_its_target(tables: Path, splits: dict[str, Path]) -> None:
    compare(splits["submission"], reference(tables, "submission", SplitConfig()))
    assert read(splits["submission"] / "target.parquet").clicked.isna().all()
    assert read(splits["validation"] / "target.parquet").clicked.notna().all()


@pytest.mark.parametrize("name", ["validation", "submission"])
def test_short_ranges_change_nothing(
    tables: Path,
    splits: dict[str, Path],
    engine: DuckDBEngine,
    tmp_path: Path,
    short_ranges: Callable[[Path, Path], Path],
    name: SplitName,
) -> None:
    short = short_ranges(tables, tmp_path / "tables")
    for clicks in ("clicks_train", "clicks_test"):
        assert len(list(engine.ranges(short / f"{clicks}.parquet", "display_id"))) >= 3
    write_split(engine, short, name, SplitConfig(), tmp_path / "split")
    for part in PARTS:
        found, whole = (pq.read_table(folder / f"{part}.parquet") for folder in (tmp_path / "split", splits[name]))
        assert found.equals(whole), part
    assert SplitInfo.read(tmp_path / "split") == SplitInfo.read(splits[name])


@pytest.mark.parametrize("name", ["validation", "submission"])
def test_columns_order_and_row_numbers(splits: dict[str, Path], name: str) -> None:
    types = {"boolean": pa.bool_()}
    for part in PARTS:
        table = pq.read_table(splits[name] / f"{part}.parquet")
        flags = COLD if part == "target" else ()
        assert table.column_names == [*IMPRESSIONS, *flags]
        for column, kind in IMPRESSIONS.items():
            assert table.schema.field(column).type == types.get(kind, kind), column
        assert table["row"].to_pylist() == list(range(table.num_rows))
        ids = list(zip(table["display_id"].to_pylist(), table["ad_id"].to_pylist(), strict=True))
        assert ids == sorted(set(ids))


def test_every_impression_stands_in_each_split_once(tables: Path, splits: dict[str, Path]) -> None:
    def ids(path: Path) -> list[tuple[int, int]]:
        return list(zip(*(pq.read_table(path)[name].to_pylist() for name in ("display_id", "ad_id")), strict=True))

    train, test = sorted(ids(tables / "clicks_train.parquet")), sorted(ids(tables / "clicks_test.parquet"))
    validation = [ids(splits["validation"] / f"{part}.parquet") for part in PARTS]
    assert sorted(validation[0] + validation[1]) == train
    assert not {display for display, _ in validation[0]} & {display for display, _ in validation[1]}
    assert [ids(splits["submission"] / f"{part}.parquet") for part in PARTS] == [train, test]


@pytest.mark.parametrize("name", ["validation", "submission"])
def test_the_summary_counts_what_is_there(tables: Path, splits: dict[str, Path], name: str) -> None:
    info = SplitInfo.read(splits[name])
    history, target = (read(splits[name] / f"{part}.parquet") for part in PARTS)
    assert (info.history_rows, info.history_displays) == (len(history), history.display_id.nunique())
    assert (info.target_rows, info.target_displays) == (len(target), target.display_id.nunique())
    assert info.target_future_displays == target[target.future].display_id.nunique() > 0
    assert info.labelled == (name == "validation")
    events = read(tables / "events.parquet")
    last = events[events.display_id <= read(tables / "clicks_train.parquet").display_id.max()].timestamp.max()
    train_end = (last // DAY_MS + 1) * DAY_MS
    assert info.views_until == (train_end if name == "validation" else None)
    assert info.future_from == (train_end - 2 * DAY_MS if name == "validation" else train_end)


def test_a_display_on_the_border_is_future(
    tables: Path, splits: dict[str, Path], engine: DuckDBEngine, tmp_path: Path
) -> None:
    border = SplitInfo.read(splits["validation"]).future_from
    assert border is not None
    present = read(splits["validation"] / "history.parquet").display_id.iloc[[0, -1]].tolist()

    def move(table: pa.Table) -> pa.Table:
        """The first display begins the future, the last stands a millisecond before it."""
        time = table["timestamp"].to_numpy().copy()
        for display, at in zip(present, (border, border - 1), strict=True):
            time[table["display_id"].to_numpy() == display] = at
        return table.set_column(table.column_names.index("timestamp"), "timestamp", pa.array(time))

    write_split(
        engine, changed(tables, tmp_path / "tables", events=move), "validation", SplitConfig(), tmp_path / "split"
    )
    history, target = (set(read(tmp_path / "split" / f"{part}.parquet").display_id) for part in PARTS)
    assert present[0] in target
    assert present[1] in history


def test_history_knows_nothing_of_the_future(splits: dict[str, Path]) -> None:
    info = SplitInfo.read(splits["validation"])
    history = read(splits["validation"] / "history.parquet")
    assert info.future_from is not None
    assert (history.timestamp < info.future_from).all()
    assert not history.future.any()


def changed(tables: Path, folder: Path, **change: Callable[[pa.Table], pa.Table]) -> Path:
    """A copy of the tables in which some are changed."""
    shutil.copytree(tables, folder)
    for name, function in change.items():
        path = folder / f"{name}.parquet"
        pq.write_table(function(pq.read_table(path)), path)
    return folder


def test_displays_and_ads_of_which_nothing_is_known(tables: Path, engine: DuckDBEngine, tmp_path: Path) -> None:
    """Every seventh display has no event and every fifth ad no campaign: the rows stay, their columns are null."""
    lost = changed(
        tables,
        tmp_path / "tables",
        events=lambda t: t.filter(pa.array(t["display_id"].to_numpy() % 7 != 0)),
        promoted_content=lambda t: t.filter(pa.array(t["ad_id"].to_numpy() % 5 != 0)),
    )
    names: tuple[SplitName, ...] = ("validation", "submission")
    for name in names:
        write_split(engine, lost, name, SplitConfig(), tmp_path / name)
        compare(tmp_path / name, reference(lost, name, SplitConfig()))
        target = read(tmp_path / name / "target.parquet")
        blind = target[target.display_id % 7 == 0]
        assert len(blind)
        assert blind[["user_id", "document_id", "timestamp", "platform", "country"]].isna().all(axis=None)
        assert blind[["cold_user", "cold_page"]].all(axis=None)
        assert not blind.future.any()
        assert target[target.ad_id % 5 == 0][["ad_document_id", "campaign_id", "advertiser_id"]].isna().all(axis=None)


def test_ids_of_train_and_test_may_interleave(tables: Path, engine: DuckDBEngine, tmp_path: Path) -> None:
    """The displays of test, which has two days more, stand among those of train."""
    test = pq.read_table(tables / "clicks_test.parquet")["display_id"].to_numpy()

    def interleave(table: pa.Table) -> pa.Table:
        ids = table["display_id"].to_numpy()
        moved = np.where(np.isin(ids, test), 2 * (ids - test.min()), 2 * ids + 1).astype(np.uint32)
        keys = [(name, "ascending") for name in ("display_id", "ad_id") if name in table.column_names]
        return table.set_column(0, "display_id", pa.array(moved)).sort_by(keys)

    mixed = changed(tables, tmp_path / "tables", clicks_train=interleave, clicks_test=interleave, events=interleave)
    names: tuple[SplitName, ...] = ("validation", "submission")
    for name in names:
        info = write_split(engine, mixed, name, SplitConfig(), tmp_path / name)
        assert info.future_from == {"validation": 11, "submission": 13}[name] * DAY_MS
        compare(tmp_path / name, reference(mixed, name, SplitConfig()))


def one_day(table: pa.Table) -> pa.Table:
    column = table.column_names.index("timestamp")
    day = pc.add(pc.multiply(pc.divide(table["timestamp"], DAY_MS), -DAY_MS), table["timestamp"])
    return table.set_column(column, "timestamp", day)


def test_a_single_day_has_no_future(
    tables: Path, engine: DuckDBEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    day = changed(tables, tmp_path / "tables", events=one_day)
    with caplog.at_level("WARNING", "pipeline"):
        info = write_split(engine, day, "validation", SplitConfig(), tmp_path / "split")
    assert "train covers 1 day(s): validation has no future part" in caplog.text
    assert info.future_from is None
    assert info.views_until == DAY_MS
    assert info.target_future_displays == 0
    compare(tmp_path / "split", reference(day, "validation", SplitConfig()))
    assert (read(tmp_path / "split" / "target.parquet").display_id % 6 == 5).all()


def test_no_events_at_all(tables: Path, engine: DuckDBEngine, tmp_path: Path) -> None:
    blind = changed(tables, tmp_path / "tables", events=lambda t: t.slice(0, 0))
    info = write_split(engine, blind, "validation", SplitConfig(), tmp_path / "split")
    assert (info.future_from, info.views_until) == (None, None)
    compare(tmp_path / "split", reference(blind, "validation", SplitConfig()))


def test_an_empty_part_stops_the_run_and_leaves_what_was_there(
    tables: Path, engine: DuckDBEngine, tmp_path: Path
) -> None:
    out = tmp_path / "split"
    out.mkdir()
    (out / "old").write_text("old")
    kept = changed(
        tables,
        tmp_path / "tables",
        clicks_train=lambda t: t.filter(pa.array(t["display_id"].to_numpy() % 6 != 5)),
    )
    with pytest.raises(InputError, match="the validation split has no target displays"):
        write_split(engine, kept, "validation", SplitConfig(future_days=0), out)
    empty = changed(tables, tmp_path / "no tables", clicks_train=lambda t: t.slice(0, 0))
    with pytest.raises(InputError, match="the submission split has no history displays"):
        write_split(engine, empty, "submission", SplitConfig(), out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["no tables", "split", "tables"]
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("old", "old")]


@pytest.mark.parametrize(
    "wrong", [{"future_days": -1}, {"present_modulus": 1}, {"present_remainder": 6}, {"present_remainder": -1}]
)
def test_parameters_that_make_no_split(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(wrong))}: must be"):
        parse(SplitConfig, wrong, "split")


def test_the_stage_writes_the_same_bytes(tables: Path, splits: dict[str, Path], tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(f"split: {{}}\nruntime: {{threads: 2, temp_directory: {tmp_path / 'tmp'}}}\n")
    for name, folder in splits.items():
        out = tmp_path / name
        main([f"--params={params}", f"--tables={tables}", f"--split={name}", f"--out={out}"])
        assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}
