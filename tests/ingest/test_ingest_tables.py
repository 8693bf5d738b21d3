"""The tables that come out of valid files, in every form, and the report."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pytest

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.runtime import RuntimeConfig
from pipeline.ingest import page_views
from pipeline.ingest.rewriters import PublishTime
from pipeline.ingest.staging import ClickCount
from pipeline.schemas.raw import DAY_MS, EPOCH_MS, MOST_DAYS, RAW_FILES
from pipeline.schemas.tables import TABLES
from pipeline.stages.ingest import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import World

FORMS = ("csv", "csv.zip", "parquet")


def warnings_of(report: dict[str, Any]) -> list[str]:
    """All warnings but the one of the tiny world's odd dates."""
    told = [text for text in report["warnings"] if "values of publish_time are no date (such as 'infinity')" in text]
    assert len(told) == 1
    return [text for text in report["warnings"] if text not in told]


def as_parquet(world: World, name: str) -> None:
    """Write a file of the world as Parquet, with the types that a reader would guess."""
    source = world.folder / f"guess_{name}.csv"
    source.write_bytes(world.data(name))
    options = pcsv.ConvertOptions(strings_can_be_null=True, null_values=[""])
    world.parquet(name, pcsv.read_csv(source, convert_options=options))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tables(world: World, form: str) -> None:
    world.run()
    plain = hashes(world.out)
    if form != "csv":
        for name in world.text:
            (world.zip if form == "csv.zip" else lambda n: as_parquet(world, n))(name)
    report = world.run()
    assert {file["form"] for file in report["files"].values()} == {form}
    assert hashes(world.out) == plain
    assert set(plain) == {f"{name}.parquet" for name in TABLES}


def test_types_are_those_of_the_schema(world: World) -> None:
    world.run()
    with DuckDBEngine(RuntimeConfig(temp_directory=str(world.folder / "tmp"))) as engine:
        for name, columns in TABLES.items():
            found = engine.sql(f"DESCRIBE FROM '{world.out / name}.parquet'")
            assert {row[0]: row[1] for row in found} == columns, name


def test_values(world: World) -> None:
    world.run()
    assert world.table("users") == [(0, "cc"), (1, "aa"), (2, "bb"), (3, "dd")]
    assert world.table("events") == [
        (1, 0, 100, 61, 3, "US", "SC", "519"),
        (2, 1, 101, 81, 2, "US", "CA", None),
        (3, 2, 100, 86400000, 1, "NA", None, None),
        (4, 1, 102, 950400000, None, None, None, None),
        (5, 3, 100, 1209599999, None, None, None, None),
    ]
    assert world.table("page_views") == [(0, 100, 3, 3, "EU", None, None, 3), (1, 101, 7, 2, "US", "CA", "807", 2)]
    assert world.table("document_views") == [(100, 0, 2), (101, 0, 1)]
    published = 1465084800000 - EPOCH_MS
    assert world.table("documents_meta") == [
        (200, 1, 603, published), (100, None, None, None), (201, 2, 603, None),
        (202, 2, None, None), (101, 3, 5, None), (102, 3, 5, None),
    ]  # fmt: skip
    assert world.table("documents_topics")[1] == (100, 16, pytest.approx(1e-5))


def test_times_of_publication() -> None:
    """Each text is read by itself, whatever stands beside it in the batch."""
    at = 1465084800000 - EPOCH_MS
    texts = {
        "2016-06-05 00:00:00": at, "2016-06-05": at, "2016-06-05T00:00:01": at + 1000,
        "2016-06-05 00:00:00.25": at + 250,
        "2016-06-05 00:00:00.123456": at + 123, "2016-06-05T00:00:00Z": at, "2016-06-31 00:00:00": None, "soon": None,
        "1989-12-31 23:59:59": None, "1990-01-01 00:00:00": 631152000000 - EPOCH_MS, "0000-01-01 00:00:00": None,
        "2016-07-01 00:00:00": None, "2016-06-30 00:00:00": 1467244800000 - EPOCH_MS, None: None,
    }  # fmt: skip
    for rows in (list(texts), [text for text, time in texts.items() if time is not None], ["soon"], [None], []):
        rewrite = PublishTime()
        batch = pa.RecordBatch.from_arrays([pa.array(rows, pa.string())], ["publish_time"])
        for part in (batch, batch.slice(1), batch.slice(0, 3)):
            assert rewrite(part).column(0).to_pylist() == [texts[text] for text in part.column(0).to_pylist()]
    rewrite = PublishTime()
    rewrite(pa.RecordBatch.from_arrays([pa.array([*texts, "soon"], pa.string())], ["publish_time"]))
    assert rewrite.dirt == [
        ("publish_time is no date", 3, ["2016-06-31 00:00:00", "soon"]),
        ("publish_time is before 1990", 2, ["0000-01-01 00:00:00", "1989-12-31 23:59:59"]),
        ("publish_time is after the competition", 1, ["2016-07-01 00:00:00"]),
    ]


def test_report(world: World) -> None:
    report = world.run()
    assert report["files"]["events"]["nulls"]["platform"] == 2
    assert report["files"]["events"]["dirt"] == {"geo_location is --": {"rows": 1}}
    assert report["files"]["documents_meta"]["nulls"] == {
        "document_id": 0, "source_id": 1, "publisher_id": 2, "publish_time": 1,
    }  # fmt: skip
    assert report["files"]["documents_meta"]["dirt"] == {
        "publish_time is no date": {"rows": 1, "examples": ["infinity"]},
        "publish_time is before 1990": {"rows": 2, "examples": ["0016-01-01 00:00:00", "1940-06-01 00:00:00"]},
        "publish_time is after the competition": {"rows": 1, "examples": ["3008-07-25 00:00:00"]},
    }
    assert report["tables"]["users"] == 4
    assert report["displays"]["clicks_train"] == {"displays": 3, "ads_min": 2, "ads_mean": 2.3333, "ads_max": 3}
    assert report["events"]["days"] == [0, 1, 11, 13]
    assert report["orphans"]["clicks_test.display_id not in events"]["count"] == 0
    assert warnings_of(report) == []
    assert report["dropped"] == {}


def test_orphans_are_counted(world: World) -> None:
    world.change("events", "5,dd,", "6,dd,")
    world.change("clicks_test", "5,12", "5,99")
    report = world.run()
    orphans = {name: value["count"] for name, value in report["orphans"].items()}
    assert orphans["clicks_test.display_id not in events"] == 1
    assert orphans["events.display_id not in clicks_train or clicks_test"] == 1
    assert orphans["clicks_test.ad_id not in promoted_content"] == 1
    assert report["orphans"]["clicks_test.ad_id not in promoted_content"]["share"] == 0.25


def test_unsorted_files_are_sorted(world: World) -> None:
    world.run()
    sorted_tables = {name: world.table(name) for name in ("clicks_train", "clicks_test", "events")}
    for name in sorted_tables:
        header, *lines = str(world.text[name]).splitlines()
        world.text[name] = "\n".join([header, *lines[::-2], *lines[-2::-2]]) + "\n"  # displays are torn apart as well
    world.run()
    for name, rows in sorted_tables.items():
        assert world.table(name) == rows


def many_views(world: World, rows: int) -> list[tuple[int, int, int]]:
    """Give the world page views in many batches; (number of the user, document, timestamp) of each."""
    views = [(i * 7919 % 1000, i * 31 % 50, i * 104_729 % (15 * DAY_MS)) for i in range(rows)]
    lines = (f"u{u:03},{d},{t},{t % 3 + 1},US>CA>{t % 9},{d % 3 + 1}\n" for u, d, t in views)
    world.text["page_views"] = str(world.text["page_views"]).splitlines()[0] + "\n" + "".join(lines)
    events = "".join(f"{i + 6},u{i:03},100,{i},1,US\n" for i in range(0, 1000, 3))
    world.text["events"] = str(world.text["events"]) + events
    return views


def test_page_views_of_users_with_an_event_are_kept_and_all_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_views, "PENDING", 1000)
    monkeypatch.setattr(page_views, "RANGE", 100)
    views = many_views(world, 300_000)
    report = world.run()
    users = {uuid: number for number, uuid in world.table("users")}
    known = sorted((users[f"u{u:03}"], t, d) for u, d, t in views if u % 3 == 0)
    assert [(row[0], row[2], row[1]) for row in world.table("page_views")] == known
    assert 0 < len(known) < len(views)
    assert world.table("document_views") == [
        (*key, n) for key, n in sorted(Counter((d, t // DAY_MS) for _, d, t in views).items())
    ]
    assert report["page_views"] == {
        "read": "page_views",
        "wanted": "full",
        "rows": len(views),
        "rows_of_users_with_events": len(known),
        "rows_left_out": len(views) - len(known),
        "first_timestamp": 0,
        "last_timestamp": max(t for _, _, t in views),
    }


def test_the_order_of_page_views_in_the_file_changes_nothing(world: World) -> None:
    many_views(world, 10_000)
    world.run()
    first = hashes(world.out)
    header, *lines = str(world.text["page_views"]).splitlines()
    world.text["page_views"] = "\n".join([header, *lines[::-1]]) + "\n"
    world.run()
    assert hashes(world.out) == first


@pytest.mark.parametrize(("threads", "memory_limit"), [(1, "1GB"), (2, "80MB"), (4, "1GB")])
def test_neither_threads_nor_memory_change_a_byte(world: World, threads: int, memory_limit: str) -> None:
    many_views(world, 300_000)
    world.run()
    first = hashes(world.out)
    world.threads, world.memory_limit = threads, memory_limit
    world.run()
    assert hashes(world.out) == first


def test_the_last_time_that_can_be(world: World) -> None:
    last = MOST_DAYS * DAY_MS - 1
    world.change("page_views", "cc,100,3,", f"cc,100,{last},")
    world.change("events", "1,cc,100,61,", f"1,cc,100,{last},")
    report = world.run()
    assert world.table("document_views") == [(100, 0, 1), (100, MOST_DAYS - 1, 1), (101, 0, 1)]
    assert world.table("events")[0][:4] == (1, 0, 100, last)
    assert report["events"]["outside_of_the_days"] == 1


def test_dropped_times(world: World) -> None:
    world.change("page_views", "zz,100,5,", "zz,100,-5,")
    world.change("page_views", "cc,100,3,", "cc,100,1465876800001,")
    world.change("events", "4,aa,102,950400000", "2,aa,102,-1")  # of two rows of a display the one that can be is kept
    world.change("events", "1209599999", f"{MOST_DAYS * DAY_MS}")
    report = world.run(timestamp_out_of_range="drop")
    assert report["dropped"] == {"timestamp_out_of_range": {"rows": 4}}
    assert [row[:4] for row in world.table("events")] == [(1, 0, 100, 61), (2, 1, 101, 81), (3, 2, 100, DAY_MS)]
    assert world.table("users") == [(0, "cc"), (1, "aa"), (2, "bb")]
    assert world.table("document_views") == [(101, 0, 1)]
    assert len(world.table("page_views")) == 1
    found = {name: report["page_views"][name] for name in ("rows", "rows_left_out", "first_timestamp")}
    assert found == {"rows": 3, "rows_left_out": 2, "first_timestamp": 7}


@pytest.mark.parametrize("name", ["events", "page_views", "clicks_train"])
def test_line_ends_and_byte_order_mark(world: World, name: str) -> None:
    world.run()
    plain = world.table(name)
    header, _, rows = str(world.text[name]).partition("\n")
    for text, warning in (
        (f"{header}\r\n{rows}".replace("\n", "\r\n").replace("\r\r", "\r"), "CRLF"),
        (header + "\n" + rows.replace("\n", "\r\n"), "CRLF"),  # as page_views_sample.csv really is
        ("\ufeff" + header + "\n" + rows, "byte order mark"),
        (header + "\n" + rows.removesuffix("\n"), ""),
    ):
        world.text[name] = text
        report = world.run()
        assert world.table(name) == plain
        assert [warning in w for w in warnings_of(report)] == [True] * bool(warning)


@pytest.mark.parametrize("name", ["events", "page_views", "documents_entities", "clicks_train"])
@pytest.mark.parametrize("zipped", [False, True], ids=["csv", "zip"])
@pytest.mark.parametrize(
    ("header", "rows"),
    [(csv.QUOTE_ALL, csv.QUOTE_ALL), (csv.QUOTE_ALL, csv.QUOTE_MINIMAL), (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)],
    ids=["all", "names alone", "values alone"],
)
def test_quotes(world: World, name: str, zipped: bool, header: Literal[0, 1], rows: Literal[0, 1]) -> None:
    """The competition's files have none, but many writers put them around names and texts."""
    world.run()
    plain = world.table(name)
    lines = [line.split(",") for line in str(world.text[name]).splitlines()]
    text = io.StringIO()
    csv.writer(text, quoting=header).writerow(lines[0])
    csv.writer(text, quoting=rows, lineterminator="\n").writerows(lines[1:])
    world.text[name] = text.getvalue().replace("\r\n", "\n")
    if zipped:
        world.zip(name)
    report = world.run()
    assert world.table(name) == plain
    assert warnings_of(report) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", sorted(RAW_FILES.keys() - {"page_views_sample"}))
def test_columns_are_found_by_name(world: World, name: str, form: str) -> None:
    """Beside them an index without a name, as pandas writes it."""
    world.run()
    plain = hashes(world.out)
    lines = [line.split(",") for line in str(world.text[name]).splitlines()]
    own = [["", "when"], *(["\u00fc", str(i)] for i in range(len(lines) - 1))]
    world.text[name] = "".join(",".join([a, *line[::-1], b]) + "\n" for (a, b), line in zip(own, lines, strict=True))
    if form != "csv":
        (world.zip if form == "csv.zip" else lambda n: as_parquet(world, n))(name)
    report = world.run()
    assert hashes(world.out) == plain
    assert warnings_of(report) == [f"{name}.{form}: has columns that are not read: , when"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name", ["documents_categories", "documents_topics", "documents_entities", "page_views", "page_views_sample"]
)
def test_a_file_without_rows_is_an_empty_table(world: World, name: str, form: str) -> None:
    if name == "page_views_sample":
        world.text[name] = world.text.pop("page_views")
        world.page_views = "sample"
    header = str(world.text[name]).partition("\n")[0]
    world.text[name] = header + "\r\n" * (form == "csv")
    if form == "csv.zip":
        world.zip(name)
    elif form == "parquet":
        world.parquet(name, pa.table({column: pa.array([], pa.string()) for column in header.split(",")}))
    report = world.run()
    assert report["files"][name] == {"form": form, "rows": 0, "nulls": dict.fromkeys(header.split(","), 0)}
    assert f"{name}.{form}: has no rows; what they would tell is unknown" in warnings_of(report)
    table = "page_views" if name == "page_views_sample" else name
    assert world.table(table) == []
    with DuckDBEngine(RuntimeConfig(temp_directory=str(world.folder / "tmp"))) as engine:
        found = engine.sql(f"DESCRIBE FROM '{world.out / table}.parquet'")
    assert {row[0]: row[1] for row in found} == TABLES[table]


def test_page_views_of_nobody_are_told(world: World) -> None:
    assert warnings_of(world.run()) == []
    header = str(world.text["page_views"]).partition("\n")[0]
    world.text["page_views"] = f"{header}\nzz,100,5,1,GB>H9,1\n"
    assert warnings_of(world.run()) == [
        "page_views: none of its 1 rows is of a user who has an event; expected most users"
    ]


def test_page_views_fall_back(world: World) -> None:
    world.text["page_views_sample"] = world.text.pop("page_views")
    report = world.run()
    assert report["page_views"]["read"] == "page_views_sample"
    assert any("page_views_sample was read instead" in w for w in report["warnings"])
    assert len(world.table("page_views")) == 2
    del world.text["page_views_sample"]
    report = world.run()
    assert report["page_views"]["read"] == "none"
    assert any("the table page_views is empty" in w for w in report["warnings"])
    assert world.table("page_views") == world.table("document_views") == []


@pytest.mark.parametrize(("wanted", "rows"), [("full", 2), ("sample", 1), ("none", 0)])
def test_page_views_as_wanted(world: World, wanted: str, rows: int) -> None:
    full = str(world.text["page_views"])
    world.text["page_views_sample"] = full.rsplit("\n", 2)[0] + "\n"
    world.page_views = wanted
    report = world.run()
    assert warnings_of(report) == []
    assert len(world.table("page_views")) == rows


def test_parquet_nan_is_unknown(world: World) -> None:
    world.parquet("documents_meta", pa.table({
        "publish_time": ["2016-06-05 00:00:00", ""], "source_id": [1.0, float("nan")],
        "publisher_id": [603, None], "document_id": [200, 100],
    }))  # fmt: skip
    world.run()
    assert world.table("documents_meta")[1] == (100, None, None, None)


def test_stage(world: World, stage_arguments: Callable[[World], list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    before = hashes(world.out)
    main(stage_arguments(world))
    assert hashes(world.out) == before
    assert capsys.readouterr().out == ""


@pytest.mark.skipif("OUTBRAIN_RAW" not in os.environ, reason="OUTBRAIN_RAW names no folder of the competition's files")
def test_real_rows(world: World) -> None:
    world.text = {}
    for path in Path(os.environ["OUTBRAIN_RAW"]).glob("*.csv.zip"):
        name = path.name.removesuffix(".csv.zip")
        world.text[name], world.paths[name] = "", path
    report = world.run()
    assert report["dropped"] == {"cut_display": {"displays": 1, "rows": 1}}
    assert any("line 50000: display 9797 has no click" in w for w in report["warnings"])
    assert any("clicks_test.display_id not in events: 9842 of 9842 (100.0%)" in w for w in report["warnings"])
    assert "sample_submission has 49999 displays, clicks_test has 9842" in report["warnings"]
    assert any("page_views_sample was read instead" in w for w in report["warnings"])
    assert report["displays"]["clicks_train"]["displays"] == 9796
    assert report["orphans"]["clicks_train.display_id not in events"]["count"] == 0
    assert report["orphans"]["clicks_test.display_id not in events"] == {"count": 9842, "of": 9842, "share": 1.0}
    meta = report["files"]["documents_meta"]
    examples = [text[:4] for dirt in meta["dirt"].values() for text in dirt["examples"]]
    assert {"1940", "2104", "3008"} <= set(examples)
    assert meta["nulls"]["publish_time"] == 1911
    assert report["page_views"]["rows"] == 49_999


@pytest.mark.parametrize("clicks", [[1, 1, 1, 1], [1, 0, 1, 1], [1, 2, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0], [2, 0, 1, 1]])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
def test_clicks_are_counted_across_batches(clicks: list[int], rows: int) -> None:
    """Whatever the batches into which a file is read, and where in them a display begins."""
    lengths = [3, 1, 4, 2] if clicks[1] < 2 else [3, 2, 4, 2]
    clicked = np.concatenate([np.arange(n) < k for n, k in zip(lengths, clicks, strict=True)]).astype(np.uint8)
    batch = pa.record_batch({"display_id": np.repeat(np.array([7, 8, 11, 12], np.uint32), lengths), "clicked": clicked})
    counted = ClickCount()
    for start in range(0, batch.num_rows, rows):
        counted(batch.slice(start, rows))
        counted(batch.slice(start, 0))
    assert counted.is_one == (clicks == [1, 1, 1, 1])
