"""Sending a submission by Kaggle's own client to a server on this machine: what is checked, sent, filed, refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError, UserError
from pipeline.kaggle_client import Kaggle, KaggleError
from pipeline.stages import submit as stage
from pipeline.submit import Entry, check_csv, commit, digest, read_log, submit, upload, wait_for_score, write_log
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
def command(
    tmp_path: Path, clicks_test: Path, written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Entry]]:
    """command(*options): the stage on a good file of the real competition's kind; gives the log afterwards."""
    monkeypatch.setattr(stage, "TEST_DISPLAYS", len(DISPLAYS))
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


def test_the_limit_of_all_submissions_is_another_one(command: Callable[..., list[Entry]], server: KaggleServer) -> None:
    server.limits = {"numToday": 0, "numTotal": 40, "numAllowedNow": 0, "limitedByTotal": True}
    with pytest.raises(UserError, match="the limit of all submissions is reached, 40 were made"):
        command()
    assert server.submissions == []


def test_an_unknown_limit_is_told(
    command: Callable[..., list[Entry]], server: KaggleServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.limits = {"numToday": 0, "numTotal": 0, "numAllowedNow": 0}
    with caplog.at_level(logging.INFO):
        assert len(command()) == 1
    assert "Kaggle does not tell, before the first one, how many submissions it takes today" in caplog.text


def test_what_is_pending_is_filled_in_by_the_next_submission(
    command: Callable[..., list[Entry]], server: KaggleServer
) -> None:
    server.pending = 1
    (first,) = command("--wait=0")
    assert (first.status, first.public) == ("pending", "")
    first, second = command("--again", "--wait=0")
    assert (first.status, first.public, second.status) == ("complete", "0.66123", "pending")


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("999", "ref 999: still pending"),
        ("12x", "ref '12x': this line of the log"),
        ("", "ref '': this line of the log"),
    ],
)
def test_a_line_that_kaggle_cannot_tell_of_is_no_obstacle(
    command: Callable[..., list[Entry]],
    server: KaggleServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    ref: str,
    told: str,
) -> None:
    old = Entry(name="old", commit="", present="", future="", validation="0.6", ref=ref, sha256="another")
    write_log(tmp_path / "log.csv", [old])
    kept, sent = command()
    assert kept == old
    assert sent.status == "complete"
    assert f"old, {told}" in caplog.text


class KilledError(Exception):
    """What ends the command while it waits for an answer."""


def test_what_was_being_sent_when_the_command_was_killed_is_in_the_log(
    command: Callable[..., list[Entry]], server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> int:
        submit(*arguments)  # type: ignore[arg-type]
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(stage, "submit", killed)
        with pytest.raises(KilledError):
            command()
    (entry,) = read_log(tmp_path / "log.csv")
    assert (entry.name, entry.status, entry.ref) == ("blend", "pending", "")
    with pytest.raises(UserError, match=r"as nobody knows what: .* look at your submissions on Kaggle"):
        command()
    assert len(server.submissions) == 1
    assert [e.ref for e in command("--again")] == ["", "1001"]


def test_what_kaggle_refuses_is_not_in_the_log(
    command: Callable[..., list[Entry]], server: KaggleServer, tmp_path: Path
) -> None:
    server.refuse("CreateSubmission", 400, times=1)
    with pytest.raises(KaggleError, match="HTTP 400"):
        command()
    assert read_log(tmp_path / "log.csv") == []
    server.takes = False
    with pytest.raises(KaggleError, match="did not take the submission: The team has left"):
        command()
    assert read_log(tmp_path / "log.csv") == []
    server.takes = True
    assert len(command()) == 1


def test_waiting_for_the_score_ends(server: KaggleServer, written: Callable[..., Path]) -> None:
    server.pending = 3
    waits: list[float] = []
    with Kaggle() as kaggle:
        ref = submit(kaggle, upload(kaggle, written(GOOD)), "a message")
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


def test_a_file_of_other_data_is_sent_only_by_force(
    command: Callable[..., list[Entry]], server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "TEST_DISPLAYS", 6_245_533)
    with pytest.raises(UserError, match=r"expected the 6245533 displays .* found 3: .*clicks_test\.parquet .*--force"):
        command()
    assert server.requests == []
    assert len(command("--force")) == 1


MADE_BY = {
    "manifest.json": "run `dvc repro` first",
    "clicks_test.parquet": "run `dvc repro` first, whose stage `ingest` makes it",
    "blend.json": "holds the validation scores of .*blend.csv.gz; run `dvc repro`, or name their file by --metrics",
}


@pytest.mark.parametrize(("name", "advice"), MADE_BY.items())
def test_a_file_that_is_not_there_is_told_with_what_makes_it(
    command: Callable[..., list[Entry]], server: KaggleServer, tmp_path: Path, name: str, advice: str
) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file; .*{advice}"):
        command()
    assert server.requests == []


def test_the_commit_is_that_whose_lock_tells_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    def committed(lock: str) -> str:
        (tmp_path / "dvc.lock").write_text(lock)
        git("add", "dvc.lock")
        git("commit", "-qm", "a run")
        return git("rev-parse", "--short", "HEAD")

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "blend.csv"
    file.write_text("a submission")
    assert commit(file) == ""
    git("init", "-q")
    before = committed("outs: []")
    assert commit(file) == f"{before}+"
    made = committed(f"md5: {hashlib.md5(b'a submission').hexdigest()}")
    committed("md5: of what came after it")
    assert commit(file) == made


def test_without_credentials_nothing_is_sent(
    command: Callable[..., list[Entry]], server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    with pytest.raises(KaggleError, match="credentials are missing"):
        command()
    assert server.submissions == []
