"""Sending a submission by Kaggle's own client to a server on this machine: what is checked, sent, filed, refused."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError, UserError
from pipeline.kaggle_client import Kaggle, KaggleError
from pipeline.stages import submit as stage
from pipeline.submit import Entry, check_csv, digest, read_log, send, wait_for_score, write_log
from tests.kaggle_server import TOKEN, KaggleServer

DISPLAYS = {7: [3, 1, 2], 8: [9, 4], 11: list(range(20, 33))}  # the last has 13 ads, of which 12 are named
GOOD = ["7,2 3 1", "8,4 9", "11,32 31 30 29 28 27 26 25 24 23 22 21"]


@pytest.fixture
def clicks_test(tmp_path: Path) -> Path:
    rows = [(display, ad) for display, ads in DISPLAYS.items() for ad in sorted(ads)]
    table = pa.Table.from_pylist([{"display_id": display, "ad_id": ad} for display, ad in rows])
    columns = {name: table[name].cast(pa.uint32()) for name in table.column_names}
    path = tmp_path / "clicks_test.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """written(lines): a submission with these lines, gzipped if its name says so."""

    def write(lines: list[str], header: str = "display_id,ad_id", name: str = "blend.csv") -> Path:
        path, text = tmp_path / name, "\n".join([header, *lines, ""]).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return path

    return write


# --- the file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["blend.csv", "blend.csv.gz"])
def test_a_good_file_in_any_order_of_displays(clicks_test: Path, written: Callable[..., Path], name: str) -> None:
    assert check_csv(written(GOOD, name=name), clicks_test) == 3
    assert check_csv(written(GOOD[::-1], name=name), clicks_test) == 3


WRONG = {
    "a display twice": ([*GOOD, GOOD[0]], "line 5: display 7 stands in the file twice"),
    "a foreign display": ([*GOOD, "12,1"], "line 5: display 12 is not in clicks_test"),
    "a display is missing": (GOOD[1:], "expected the 3 displays of clicks_test, 1 are missing, the first of them 7"),
    "an ad is missing": (["7,2 3", *GOOD[1:]], "line 2: expected 3 ads, found 2"),
    "an ad too many": (["7,2 3 1 9", *GOOD[1:]], "line 2: expected 3 ads, found 4"),
    "thirteen ads": ([*GOOD[:2], GOOD[2] + " 20"], "line 4: expected 12 ads, found 13"),
    "an ad twice": (["7,2 3 2", *GOOD[1:]], "line 2: names an ad twice"),
    "a foreign ad": ([GOOD[0], "8,4 5", GOOD[2]], "line 3: ad 5 is not among the ads of its display"),
    "no number": (["7,2 3 x", *GOOD[1:]], "not a submission, or cut off"),
    "no display": (["x,2 3 1", *GOOD[1:]], "not a submission, or cut off"),
}


@pytest.mark.parametrize(("lines", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_told_with_its_line(
    clicks_test: Path, written: Callable[..., Path], lines: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_csv(written(lines), clicks_test)


def test_a_wrong_header_a_cut_file_and_none(clicks_test: Path, written: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1: expected display_id,ad_id, found display_id,ads"):
        check_csv(written(GOOD, header="display_id,ads"), clicks_test)
    whole = written(GOOD, name="cut.csv.gz")
    whole.write_bytes(whole.read_bytes()[:-12])
    with pytest.raises(InputError, match="not a submission, or cut off"):
        check_csv(whole, clicks_test)
    with pytest.raises(InputError, match="no such file; run the stage `submission` first"):
        check_csv(tmp_path / "none.csv", clicks_test)


def test_the_digest_is_of_the_text(written: Callable[..., Path]) -> None:
    plain = digest(written(GOOD))
    assert digest(written(GOOD, name="blend.csv.gz")) == plain
    assert digest(written(GOOD[::-1])) != plain


def test_many_displays_are_checked_without_a_loop(tmp_path: Path) -> None:
    """A file of as many lines as this is checked in well under a second; a loop over lines would be seen."""
    display = np.repeat(np.arange(1, 50_001, dtype=np.uint32), 4)
    ad = np.tile(np.array([5, 6, 7, 8], np.uint32), 50_000)
    pq.write_table(pa.table({"display_id": display, "ad_id": ad}), tmp_path / "clicks_test.parquet")
    (tmp_path / "big.csv").write_text("display_id,ad_id\n" + "".join(f"{d},8 7 6 5\n" for d in range(1, 50_001)))
    assert check_csv(tmp_path / "big.csv", tmp_path / "clicks_test.parquet") == 50_000


# --- the log -----------------------------------------------------------------------------------------------------


def test_the_log_keeps_what_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "submissions" / "log.csv"
    assert read_log(path) == []
    entries = [Entry(name="a, b", commit="1+", present="0.6", future="", validation="0.65", ref="3")]
    write_log(path, entries)
    assert read_log(path) == entries
    path.write_text("name,score\n")
    with pytest.raises(InputError, match=r"line 1: expected name,commit,.* found name,score"):
        read_log(path)


# --- sending -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KaggleServer]:
    with KaggleServer() as running:
        running.sign_in(monkeypatch, tmp_path / "home")
        yield running


@pytest.fixture
def command(tmp_path: Path, clicks_test: Path, written: Callable[..., Path]) -> Callable[..., list[Entry]]:
    """command(*options): the stage on a good file of the real competition's kind; gives the log afterwards."""
    written(GOOD, name="blend.csv.gz")
    (tmp_path / "manifest.json").write_text(json.dumps({"source": "directory"}))
    (tmp_path / "blend.json").write_text(json.dumps({"map12": 0.65, "map12_present": 0.6612345, "map12_future": 0.64}))
    paths = {"csv": "blend.csv.gz", "metrics": "blend.json", "clicks-test": clicks_test.name, "log": "log.csv"}
    told = [f"--{key}={tmp_path / name}" for key, name in {**paths, "manifest": "manifest.json"}.items()]

    def run(*options: str) -> list[Entry]:
        stage.main([*told, *options])
        return read_log(tmp_path / "log.csv")

    return run


def test_a_submission_arrives_and_its_scores_are_filed(
    command: Callable[..., list[Entry]], server: KaggleServer, tmp_path: Path
) -> None:
    (entry,) = command()
    (sent,) = server.submissions
    assert sent.file_name == "blend.csv.gz"
    assert sent.data == (tmp_path / "blend.csv.gz").read_bytes()
    assert sent.description == f"blend {entry.commit}, validation 0.65000"
    assert (entry.name, entry.present, entry.future, entry.validation) == ("blend", "0.66123", "0.64000", "0.65000")
    assert (entry.public, entry.private, entry.status, entry.ref) == ("0.66123", "0.66234", "complete", str(sent.ref))
    assert TOKEN not in (tmp_path / "log.csv").read_text()


def test_a_dry_run_sends_nothing(
    command: Callable[..., list[Entry]], server: KaggleServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert command("--dry-run") == []
    assert server.submissions == []
    assert server.uploads == {}
    assert "dry run: nothing was sent" in caplog.text


def test_the_same_file_is_not_sent_twice_unless_told(command: Callable[..., list[Entry]], server: KaggleServer) -> None:
    command()
    with pytest.raises(UserError, match="was sent before, as 1000; --again sends it once more"):
        command()
    assert [entry.ref for entry in command("--again", "--message=once more")] == ["1000", "1001"]
    assert server.submissions[-1].description == "once more"


def test_the_daily_limit_is_respected(command: Callable[..., list[Entry]], server: KaggleServer) -> None:
    for _ in range(5):
        command("--again")
    with pytest.raises(UserError, match="the daily limit of submissions is reached"):
        command("--again")
    assert len(server.submissions) == 5


def test_what_is_pending_is_filled_in_by_the_next_submission(
    command: Callable[..., list[Entry]], server: KaggleServer
) -> None:
    server.pending = 1
    (first,) = command("--wait=0")
    assert (first.status, first.public) == ("pending", "")
    first, second = command("--again", "--wait=0")
    assert (first.status, first.public, second.status) == ("complete", "0.66123", "pending")


def test_waiting_for_the_score_ends(server: KaggleServer, written: Callable[..., Path]) -> None:
    server.pending = 3
    waits: list[float] = []
    with Kaggle() as kaggle:
        ref = send(kaggle, written(GOOD), "a message")
        entry = Entry(name="a", commit="", present="", future="", validation="", ref=str(ref))
        assert wait_for_score(kaggle, entry, 20.0, waits.append).status == "pending"
        assert sum(waits) == 20.0
        assert wait_for_score(kaggle, entry, 60.0, waits.append).status == "complete"


def test_what_kaggle_cannot_score_is_told(
    command: Callable[..., list[Entry]], server: KaggleServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.score = lambda _: "Evaluation Exception: the file is odd"
    (entry,) = command()
    assert (entry.status, entry.public) == ("error", "")
    assert "Evaluation Exception: the file is odd" in caplog.text


def test_an_upload_is_tried_again_a_submission_is_not(
    command: Callable[..., list[Entry]], server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.refuse("upload", 503, times=2)
    assert len(command()) == 1
    server.refuse("CreateSubmission", 503)
    server.requests.clear()
    with pytest.raises(KaggleError, match="look at your submissions on Kaggle before you try again"):
        command("--again")
    assert len(server.calls("CreateSubmission")) == 1


def test_a_simulated_world_is_not_sent(
    command: Callable[..., list[Entry]], server: KaggleServer, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"source": "simulated"}))
    with pytest.raises(UserError, match="about a simulated world"):
        command()
    assert server.requests == []


def test_without_credentials_nothing_is_sent(
    command: Callable[..., list[Entry]], server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    with pytest.raises(KaggleError, match="credentials are missing"):
        command()
    assert server.submissions == []
