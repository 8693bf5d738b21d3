"""Every wrong file stops the run, with the file and the line; policies let some of it pass."""

from __future__ import annotations

import io
import struct
import threading
import zipfile
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.errors import InputError
from pipeline.core.runtime import RuntimeConfig
from pipeline.ingest.config import IngestConfig
from pipeline.ingest.locate import fault_of
from pipeline.ingest.readers import open_input
from pipeline.ingest.report import Report
from pipeline.ingest.staging import Build, load
from pipeline.schemas.raw import RAW_FILES
from pipeline.stages.command import run
from pipeline.stages.ingest import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import World


def failure(world: World, **policies: str) -> str:
    with pytest.raises(InputError) as caught:
        world.run(**policies)
    assert not world.out.exists()
    assert not [path for path in world.folder.iterdir() if path.name.startswith(".")]
    return str(caught.value)


#: (file, what is there, what takes its place, the line, the message)
VALUES = [
    ("events", "2,US>CA", "4,US>CA", 3, 'platform must be 1, 2, 3 or \\N, found "4"'),
    ("events", "2,US>CA", "tablet,US>CA", 3, 'platform must be 1, 2, 3 or \\N, found "tablet"'),
    ("events", "3,bb,", "3,,", 4, "uuid must be a text, found nothing"),
    ("events", "3,bb,", "3,\\N,", 4, 'uuid must be a text, found "\\N"'),
    ("events", "86400000", "noon", 4, 'timestamp must be milliseconds after the epoch, found "noon"'),
    ("clicks_train", "2,12,0", "2,12,2", 5, 'clicked must be 0 or 1, found "2"'),
    ("clicks_train", "2,12,0", "2,12,-1", 5, 'clicked must be 0 or 1, found "-1"'),
    ("clicks_train", "2,12,0", "2,12", 5, 'expected 3 fields (display_id,ad_id,clicked), found 2: "2,12"'),
    ("clicks_train", "2,12,0", "2,12,0,0", 5, 'expected 3 fields (display_id,ad_id,clicked), found 4: "2,12,0,0"'),
    ("clicks_train", "2,12,0\n", "2,12,0\n\n", 6, "expected 3 fields (display_id,ad_id,clicked), found 1: nothing"),
    ("clicks_test", ",10", ",4294967296", 2, 'ad_id must be a whole number of at most 4294967295, found "4294967296"'),
    ("clicks_test", "5,11", "5,1.5", 4, 'ad_id must be a whole number, found "1.5"'),
    ("clicks_test", "5,11", '5,"x"', 4, 'ad_id must be a whole number, found "x"'),
    ("clicks_test", "4,10", ",10", 2, "display_id must be a whole number, found nothing"),
    ("page_views", "EU,3", "EU,4", 4, 'traffic_source must be 1 (internal), 2 (search) or 3 (social), found "4"'),
    ("page_views", "EU,3", "EU,", 4, "traffic_source must be 1 (internal), 2 (search) or 3 (social), found nothing"),
    ("page_views", "3,EU", "5,EU", 4, 'platform must be 1, 2, 3 or \\N, found "5"'),
    ("documents_meta", "100,,,", "100,x,,", 3, 'source_id must be a whole number, found "x"'),
    ("documents_topics", "1e-05", "nan", 3, 'confidence_level must be a number, found "nan"'),
    ("documents_topics", "1e-05", "-1", 3, 'confidence_level must be a number, found "-1"'),
    ("documents_topics", "1e-05", "1e50", 3, 'confidence_level must be a number of at most 3.40282e+38, found "1e50"'),
    ("sample_submission", "5,11 12", "5,", 3, "ad_id must be a text, found nothing"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(VALUES)))
def test_wrong_value(world: World, case: int) -> None:
    name, old, new, line, message = VALUES[case]
    world.change(name, old, new)
    if case % 3 == 1:
        world.text[name] = str(world.text[name]).replace("\n", "\r\n")
    if case % 3 == 2:
        world.zip(name)
    assert failure(world) == f"{name}.csv{'.zip' if case % 3 == 2 else ''}, line {line}: {message}"


def test_wrong_value_in_quotes(world: World) -> None:
    lines = str(world.text["events"]).splitlines()
    world.text["events"] = "".join('"' + line.replace(",", '","') + '"\n' for line in lines)
    world.change("events", '"4","aa","102"', '"4","aa","x"')
    assert failure(world) == 'events.csv, line 5: document_id must be a whole number, found "x"'
    world.change("events", '"4","aa","x"', '"4","aa,102')
    assert failure(world).startswith("events.csv, line 5: expected quotes around whole values, found")


@pytest.mark.parametrize("zipped", [False, True])
def test_wrong_value_beside_columns_of_other_writers(world: World, zipped: bool) -> None:
    world.text["clicks_test"] = "when,ad_id,display_id\nnoon,10,4\n,13,4\n\\N,x,5\n"
    if zipped:
        world.zip("clicks_test")
    assert failure(world).endswith('line 4: ad_id must be a whole number, found "x"')
    world.text["clicks_test"] = "when,ad_id,display_id\nnoon,10,4\n13,4\n"
    if zipped:
        world.zip("clicks_test")
    assert failure(world).endswith('line 3: expected 3 fields (when,ad_id,display_id), found 2: "13,4"')


@pytest.mark.parametrize("zipped", [False, True])
def test_a_quote_that_is_never_closed(world: World, zipped: bool) -> None:
    world.change("events", "3,bb", '3,"bb')
    if zipped:
        world.zip("events")
    assert "line 4: expected quotes around whole values, found" in failure(world)


@pytest.mark.parametrize("stop_at", [5, 250_000])
def test_a_failing_database_ends_the_reading(world: World, stop_at: int) -> None:
    """Whoever fails first, DuckDB or the thread that parses, the other ends too."""
    rows = "".join(f"{i},{i % 50}\n" for i in range(1_500_000))
    world.text["clicks_test"] = "display_id,ad_id\n" + rows
    path = world.zip("clicks_test")
    source = open_input(RAW_FILES["clicks_test"], path)
    threads = threading.active_count()
    with DuckDBEngine(RuntimeConfig(temp_directory=str(world.folder / "tmp"))) as engine:
        build = Build(engine, IngestConfig(), {"clicks_test": source}, world.out, Report())
        query = f"SELECT CASE WHEN display_id > {stop_at} THEN error('full disk') ELSE ad_id END AS ad_id FROM raw_rows"
        with pytest.raises((duckdb.Error, OSError), match="full disk"):  # before or after the first rows came
            load(build, "clicks_test", world.out / "x.parquet", query)
        assert threading.active_count() <= threads + 1  # tqdm may keep its monitor
        load(build, "clicks_test", world.out / "x.parquet")  # the session can go on
        assert pq.read_metadata(world.out / "x.parquet").num_rows == 1_500_000


def test_invalid_utf8(world: World) -> None:
    world.text["events"] = world.data("events").replace(b"3,bb", b"3,b\xff")
    assert failure(world) == "events.csv, line 4: expected UTF-8, found the byte 0xff at position 4"


def test_valid_utf8_is_a_text(world: World) -> None:
    world.change("events", "3,bb", "3,b\u00fc")
    world.change("events", "4,aa,102", "4,aa,x")
    assert failure(world).startswith("events.csv, line 5: document_id must be")


@pytest.mark.parametrize("line", [2, 250_000, 400_001])
def test_line_deep_in_a_long_file(world: World, line: int) -> None:
    lines = ["uuid,document_id,timestamp,platform,geo_location,traffic_source"]
    lines += [f"u{i},{i},{i},1,US>CA>807,2" for i in range(400_000)]
    lines[line - 1] = lines[line - 1].replace(",2", ",7")
    world.text["page_views"] = "\n".join(lines) + "\n"
    world.zip("page_views")
    assert failure(world).startswith(f"page_views.csv.zip, line {line}: traffic_source must be")


def test_endless_line(world: World) -> None:
    world.change("events", "3,bb", "3," + "b" * 20_000_000)
    assert "events.csv" in failure(world)


@pytest.mark.parametrize(("row", "column", "value"), [
    (3, "clicked", 2), (1, "ad_id", None), (7, "ad_id", 2**32), (5, "display_id", -1),
])  # fmt: skip
def test_wrong_parquet_row(world: World, row: int, column: str, value: Any) -> None:
    columns: dict[str, list[Any]] = {
        "display_id": [1, 1, 2, 2, 2, 3, 3], "ad_id": [10, 11, 10, 12, 13, 11, 12], "clicked": [0, 1, 1, 0, 0, 1, 0],
    }  # fmt: skip
    columns[column][row - 1] = value
    world.parquet("clicks_train", pa.table(columns))
    assert failure(world).startswith(f"clicks_train.parquet, row {row}: {column} must be ")


@pytest.mark.parametrize(("header", "message"), [
    ("display_id,ad_id", "missing: clicked"),
    ("display_id,ad_id,ad_id", "missing: clicked; twice: ad_id"),
    ("display_id,ad,clicked", "missing: ad_id; unknown: ad"),
    ("display_id,ad_id,clicked,ad_id", "found display_id, ad_id, clicked, ad_id (twice: ad_id)"),
    ('"display_id,ad_id,clicked', "missing: display_id"),
    ("1,10,0", "missing: display_id, ad_id, clicked"),
    ("", "missing: display_id, ad_id, clicked"),
    ("display_id,ad_id,clicked\r1,10,0", "missing: display_id, ad_id, clicked"),
])  # fmt: skip
def test_wrong_header(world: World, header: str, message: str) -> None:
    world.change("clicks_train", "display_id,ad_id,clicked", header)
    found = failure(world)
    assert message in found
    assert "clicks_train.csv, line 1: expected the columns display_id, ad_id, clicked" in found


@pytest.mark.parametrize(("text", "message"), [
    ("", "the file is empty"), ("display_id,ad_id\n", "a header but no rows"), ("display_id,ad_id", "no rows"),
])  # fmt: skip
@pytest.mark.parametrize("zipped", [False, True])
def test_empty(world: World, text: str, message: str, zipped: bool) -> None:
    world.text["clicks_test"] = text
    if zipped:
        world.zip("clicks_test")
    found = failure(world)
    assert message in found
    assert "clicks_test.csv" in found


@pytest.mark.parametrize("name", ["clicks_train", "events", "promoted_content", "documents_meta"])
def test_no_run_can_do_without_the_rows_of(world: World, name: str) -> None:
    world.text[name] = str(world.text[name]).partition("\n")[0] + "\n"
    assert failure(world) == f"{world.raw}/{name}.csv: the file has a header but no rows below it"


def test_parquet_columns(world: World) -> None:
    world.parquet("clicks_test", pa.table({"display_id": [4], "ad": [10]}))
    assert "missing: ad_id; unknown: ad" in failure(world)
    world.parquet("clicks_test", pa.table({"display_id": pa.array([], "int64"), "ad_id": pa.array([], "int64")}))
    assert "no rows" in failure(world)
    world.paths["clicks_test"].write_bytes(b"PAR1 and no more")
    assert "not a Parquet file" in failure(world)


def long_zip(world: World) -> bytes:
    rows = "".join(f"{display},{ad}\n" for display in range(4, 200_004) for ad in (10, 11))
    world.text["clicks_test"] = "display_id,ad_id\n" + rows
    return world.zip("clicks_test").read_bytes()


def test_truncated_zip(world: World) -> None:
    data = long_zip(world)
    world.paths["clicks_test"].write_bytes(data[: len(data) // 2])
    assert "clicks_test.csv.zip: the zip is damaged or cut off" in failure(world)


@pytest.mark.parametrize("at", ["data", "crc", "size"])
def test_damaged_zip(world: World, at: str) -> None:
    data = bytearray(long_zip(world))
    directory = data.rindex(b"PK\x01\x02")
    if at == "data":
        middle = directory // 2
        data[middle : middle + 64] = bytes(64)
    elif at == "crc":
        data[directory + 16] ^= 1
    else:  # the directory knows of half the member
        data[directory + 20 : directory + 24] = struct.pack("<I", directory // 2)
    world.paths["clicks_test"].write_bytes(data)
    assert "clicks_test.csv.zip: the zip is damaged or cut off" in failure(world)


def test_zip_members(world: World) -> None:
    path = world.zip("clicks_test")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/data/._clicks_test.csv", "")
        archive.writestr("data/.DS_Store", "")
    world.run()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.csv", "")
    world.out.rename(world.folder / "kept")
    assert "expected one file in the zip, clicks_test.csv; found: clicks_test.csv, other.csv" in failure(world)


def test_not_a_zip(world: World) -> None:
    world.zip("clicks_test").write_text("display_id,ad_id\n")
    assert "clicks_test.csv.zip: the zip is damaged" in failure(world)


POLICIES = [
    ("clicks_train", "3,12,0\n", "3,12,0\n9,10,0\n9,11,0\n", 9, "cut_display", "display 9 has no click", 2),
    ("clicks_train", "2,10,1", "2,10,0", 4, "display_without_click", "display 2 has no click", 3),
    ("clicks_train", "2,12,0", "2,12,1", 4, "display_with_two_clicks", "display 2 has 2 clicks", 3),
    ("clicks_train", "2,12,0", "2,10,0", 5, "duplicate_impression", "display_id 2, ad_id 10 is there already, in", 1),
    ("clicks_test", "5,12", "5,12\n4,10", 6, "duplicate_impression", "display_id 4, ad_id 10 is there already, in", 1),
    ("events", "3,bb", "2,bb", 4, "duplicate_event", "display_id 2 is there already, in line 3", 1),
    ("events", ",86400000", ",1465963199998", 4, "timestamp_out_of_range", "timestamp must be milliseconds after", 1),
    ("events", ",86400000", ",-1", 4, "timestamp_out_of_range", "timestamp must be milliseconds after", 1),
    ("promoted_content", "13,200", "10,999", 5, "duplicate_key", "ad_id 10 is there already, in line 2", 1),
    ("documents_meta", "102,3", "200,3", 7, "duplicate_key", "document_id 200 is there already, in line 2", 1),
]  # fmt: skip


@pytest.mark.parametrize("case", POLICIES)
def test_policy(world: World, case: tuple[str, str, str, int, str, str, int]) -> None:
    name, old, new, line, policy, message, rows = case
    before = world.run()["tables"][name]
    world.change(name, old, new)
    world.out.rename(world.folder / "kept")
    found = failure(world, **{policy: "error"})
    assert found.startswith(f"{name}.csv, line {line}: {message}")
    assert f"ingest.{policy}: drop" in found
    report = world.run(**{policy: "drop"})
    assert report["dropped"][policy]["rows"] == rows
    assert report["warnings"][0].startswith(f"{name}.csv, line {line}: {message}")
    added = new.count("\n") - old.count("\n")
    assert report["tables"][name] == before + added - rows == len(world.table(name))


@pytest.mark.parametrize("time", ["-1", "3456000000", "1465876800001"])
@pytest.mark.parametrize("form", ["csv", "zip", "parquet"])
def test_page_view_out_of_time(world: World, time: str, form: str) -> None:
    world.change("page_views", "cc,100,3,", f"cc,100,{time},")
    if form == "zip":
        world.zip("page_views")
    elif form == "parquet":
        world.parquet("page_views", pcsv.read_csv(io.BytesIO(world.data("page_views"))))
    place = {"csv": "csv, line 4", "zip": "csv.zip, line 4", "parquet": "parquet, row 3"}[form]
    assert failure(world) == (
        f"page_views.{place}: timestamp must be milliseconds after 1465876799998 (14 June 2016), from 0 to 3455999999 "
        f"(40 days), found {time}; ingest.timestamp_out_of_range: drop leaves such rows out"
    )


def test_no_time_that_can_be(world: World) -> None:
    text = str(world.text["events"])
    for time in (",61,", ",81,", ",86400000,", ",950400000,", ",1209599999,"):
        text = text.replace(time, ",-7,")
    world.text["events"] = text
    assert "no row is left" in failure(world, timestamp_out_of_range="drop")


def test_cut_display_is_the_last_of_the_file(world: World) -> None:
    world.change("clicks_train", "3,11,1\n3,12,0\n", "3,11,0\n3,12,1\n0,10,0\n")
    assert world.run()["dropped"] == {"cut_display": {"displays": 1, "rows": 1}}
    assert [row[0] for row in world.table("clicks_train")] == [1, 1, 2, 2, 2, 3, 3]
    assert failure_kept(world, cut_display="error").startswith("clicks_train.csv, line 9: display 0 has no click")


def failure_kept(world: World, **policies: str) -> str:
    """The message of a failing run, which leaves the tables of the run before as they were."""
    tables = {path.name: path.read_bytes() for path in world.out.iterdir()}
    report = world.report_path.read_bytes()
    with pytest.raises(InputError) as caught:
        world.run(**policies)
    assert {path.name: path.read_bytes() for path in world.out.iterdir()} == tables
    assert world.report_path.read_bytes() == report
    return str(caught.value)


def test_dropped_duplicates_keep_the_right_row(world: World) -> None:
    world.change("clicks_train", "2,12,0", "2,10,0")  # the clicked one of two
    world.change("events", "3,bb,100,86400000", "2,bb,100,80")  # the earlier one of two
    world.change("promoted_content", "13,200", "10,999")  # the first of two
    world.run(duplicate_impression="drop", duplicate_event="drop", duplicate_key="drop")
    assert [row for row in world.table("clicks_train") if row[0] == 2] == [(2, 10, 1), (2, 13, 0)]
    assert [row[:4] for row in world.table("events") if row[0] == 2] == [(2, 1, 100, 80)]
    assert world.table("promoted_content")[0] == (10, 200, 1, 7)


def test_display_in_train_and_test(world: World) -> None:
    world.change("clicks_test", "5,11", "2,11")
    assert failure(world) == (
        "clicks_test.csv, line 4: display 2 is in clicks_train too; expected it in one of the two files"
    )


@pytest.mark.parametrize("name", ["clicks_train", "clicks_test"])
def test_too_many_ads(world: World, name: str) -> None:
    row = "9,{},0\n" if name == "clicks_train" else "9,{}\n"
    click = "9,999,1\n" if name == "clicks_train" else "9,999\n"
    many = click + "".join(row.format(ad) for ad in range(254))
    world.text[name] = str(world.text[name]) + many
    assert world.run()["displays"][name]["ads_max"] == 255
    world.out.rename(world.folder / "kept")
    world.text[name] = str(world.text[name]) + row.format(254)
    assert failure(world) == (
        f"{world.raw}/{name}.csv: display 9 has 256 ads; expected at most 255; the competition's have 2 to 12"
    )


def test_no_display_left(world: World) -> None:
    world.text["clicks_train"] = "display_id,ad_id,clicked\n1,10,0\n1,11,0\n"
    assert "no display is left" in failure(world)


def test_manifest(world: World) -> None:
    del world.text["events"]
    assert "missing: events" in failure(world)
    world.text["events"] = b""
    world.paths["events"] = world.raw / "events.txt"
    assert "no such file" in failure(world)
    world.paths["events"].write_text("x")
    assert "ends in .csv, .csv.zip or .parquet" in failure(world)


def test_command_line_tells_the_error_alone(
    world: World, stage_arguments: Callable[[World], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    world.change("events", "2,US>CA", "tablet,US>CA")
    failure(world)
    with pytest.raises(SystemExit) as caught:
        run(main, stage_arguments(world))
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert 'error: events.csv, line 3: platform must be 1, 2, 3 or \\N, found "tablet"' in err
    assert "Traceback" not in err


@pytest.mark.parametrize("line", [b"4294967295,cc,0,-5,\\N,US>CA", b"1,\xc3\xbc,7,61,,--", b"0000000001,a b,1,1,1,x"])
def test_right_lines_have_no_fault(line: bytes) -> None:
    assert fault_of(line, RAW_FILES["events"]) == ""
