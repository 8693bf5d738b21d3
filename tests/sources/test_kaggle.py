"""Kaggle's own client against a server on this machine: credentials, refusals, broken connections, files on disk."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.core.errors import InputError, UserError
from pipeline.kaggle_client import Kaggle, KaggleError
from pipeline.schemas.raw import RAW_FILES
from pipeline.sources.base import PageViews, wanted
from pipeline.sources.kaggle import KaggleSource
from tests.kaggle_server import KEY, TOKEN, USERNAME, KaggleServer

BIG = "page_views"  # large enough to be broken in the middle
ROOT = Path(__file__).parents[2]


def zipped(name: str, rows: bytes = b"") -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr(f"{name}.csv", ",".join(RAW_FILES[name].header).encode() + b"\n" + (rows or b"1,2\n"))
    return memory.getvalue()


FILES = {f"{name}.csv.zip": zipped(name) for name in RAW_FILES}
FILES[f"{BIG}.csv.zip"] = zipped(BIG, random.Random(7).randbytes(300_000))


@pytest.fixture
def server() -> Iterator[KaggleServer]:
    with KaggleServer(FILES) as running:
        yield running


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def prepare(
    server: KaggleServer, waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Path]]:
    """Runs a KaggleSource over tmp_path/kaggle, signed in, noting its waits instead of waiting."""
    server.sign_in(monkeypatch, tmp_path / "home")

    def run(page_views: PageViews = "full") -> dict[str, Path]:
        return KaggleSource(tmp_path / "kaggle", page_views, wait=waits.append).prepare()

    return run


def assert_complete(paths: dict[str, Path], page_views: PageViews = "full") -> None:
    assert list(paths) == wanted(page_views)
    for name, path in paths.items():
        assert path.name == f"{name}.csv.zip"
        assert path.read_bytes() == FILES[path.name]
        assert not path.with_name(f"{name}.partial").exists()


# ---- what is downloaded ----


@pytest.mark.parametrize("page_views", ["full", "sample", "none"])
def test_downloads_what_is_wanted_and_nothing_else(
    page_views: PageViews, prepare: Callable[..., dict[str, Path]], server: KaggleServer, tmp_path: Path
) -> None:
    paths = prepare(page_views)
    assert_complete(paths, page_views)
    on_disk = {path.name for path in (tmp_path / "kaggle").iterdir()}
    assert on_disk == {"downloads.json"} | {f"{name}.csv.zip" for name in wanted(page_views)}
    assert len(server.calls("storage")) == len(paths)


def test_a_second_run_asks_nothing_and_needs_no_credentials(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare()
    server.requests.clear()
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert prepare() == first
    assert server.requests == []


def test_the_record_holds_name_size_and_md5(prepare: Callable[..., dict[str, Path]], tmp_path: Path) -> None:
    prepare("none")
    record = json.loads((tmp_path / "kaggle" / "downloads.json").read_text())
    data = FILES["events.csv.zip"]
    assert record["events"] == {"file": "events.csv.zip", "md5": hashlib.md5(data).hexdigest(), "size": len(data)}


def test_a_file_truncated_on_disk_is_fetched_again_alone(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer
) -> None:
    path = prepare("none")["events"]
    path.write_bytes(path.read_bytes()[:-5])
    server.requests.clear()
    assert_complete(prepare("none"), "none")
    assert [request.path.split("?")[0] for request in server.calls("storage")] == ["/storage/events.csv.zip"]


def test_whole_files_without_a_record_are_taken_over(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, tmp_path: Path
) -> None:
    prepare("none")
    (tmp_path / "kaggle" / "downloads.json").write_text("not json")
    server.requests.clear()
    assert_complete(prepare("none"), "none")
    assert server.calls("storage") == []


def test_a_listing_of_several_pages_is_read_to_its_end(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer
) -> None:
    server.page_size = 3
    assert_complete(prepare())
    assert len(server.calls("ListDataFiles")) == 4


def test_a_listing_without_zip_may_deliver_a_zip_or_a_csv(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer
) -> None:
    server.files = {name.removesuffix(".zip"): data for name, data in FILES.items()}
    server.listed_sizes = {"events.csv": len(b"display_id,uuid,document_id,timestamp,platform,geo_location\n1,2\n")}
    server.files["clicks_test.csv"] = b"display_id,ad_id\n1,2\n"
    paths = prepare("none")
    assert paths["events"].name == "events.csv.zip"  # the listing tells the size of its member
    assert paths["clicks_test"].name == "clicks_test.csv"
    assert paths["clicks_test"].read_bytes() == server.files["clicks_test.csv"]
    assert prepare("none") == paths


def test_without_page_views_on_kaggle_the_sample_is_taken_with_a_warning(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, caplog: pytest.LogCaptureFixture
) -> None:
    del server.files[f"{BIG}.csv.zip"]
    assert_complete(prepare("full"), "sample")
    assert "page_views" in caplog.text


def test_a_required_file_missing_on_kaggle_is_named(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer
) -> None:
    del server.files["events.csv.zip"]
    with pytest.raises(InputError, match=r"lists no events; expected .* found: clicks_train\.csv\.zip"):
        prepare()


def test_too_small_a_disk_is_told_before_the_first_byte(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.listed_sizes = {"page_views.csv.zip": 34_000_000_000}
    usage = shutil._ntuple_diskusage(100_000_000_000, 95_000_000_000, 5_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"34\.00 GB to download .*page_views\.csv\.zip.* only 5\.00 GB free"):
        prepare()
    assert server.calls("DownloadDataFile") == []


# ---- broken connections ----


@pytest.mark.parametrize("redirect", [True, False])
@pytest.mark.parametrize("checksum", ["x-goog-hash", "Content-MD5", None])
def test_a_broken_download_goes_on_where_it_broke(
    *, redirect: bool, checksum: Any, prepare: Callable[..., dict[str, Path]], server: KaggleServer, waits: list[float]
) -> None:
    server.redirect, server.checksum = redirect, checksum
    server.break_after, server.breaks = 50_000, 3
    assert_complete(prepare())
    ranges = [request.headers["Range"] for request in server.requests if "Range" in request.headers]
    assert list(dict.fromkeys(ranges)) == ["bytes=50000-", "bytes=100000-", "bytes=150000-"]
    assert waits == [2.0, 2.0, 2.0]  # it got further each time, so its patience is new


def test_a_break_in_every_request_still_ends_as_long_as_bytes_come(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, waits: list[float]
) -> None:
    server.break_after, server.breaks = 20_000, 1_000
    assert_complete(prepare())
    assert len(waits) > 10


def test_a_break_that_brings_no_more_bytes_ends_in_an_error(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, waits: list[float]
) -> None:
    server.ranges = False
    server.break_after, server.breaks = 20_000, 1_000
    with pytest.raises(KaggleError, match=r"downloading page_views\.csv\.zip: no answer, or the connection broke"):
        prepare()
    assert waits == [2.0, 4.0, 8.0, 16.0]


def test_a_download_stopped_after_its_last_byte_is_finished(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, tmp_path: Path
) -> None:
    server.break_after, server.breaks = len(FILES[f"{BIG}.csv.zip"]) - 1, 1
    assert_complete(prepare())
    folder = tmp_path / "kaggle"
    record = json.loads((folder / "downloads.json").read_text())
    md5 = record[BIG]["md5"]
    checksum = f"md5={base64.b64encode(bytes.fromhex(md5)).decode()}"
    record[BIG] = {"etag": f'"{md5}"', "size": record[BIG]["size"], "checksum": checksum}
    (folder / "downloads.json").write_text(json.dumps(record))
    (folder / f"{BIG}.csv.zip").rename(folder / f"{BIG}.partial")
    server.requests.clear()
    assert_complete(prepare())
    assert [r.headers["Range"] for r in server.calls("storage")] == [f"bytes={record[BIG]['size'] - 1}-"]


@pytest.mark.parametrize("etag", [True, False])
def test_a_partial_file_of_an_earlier_run_is_continued(
    *, etag: bool, prepare: Callable[..., dict[str, Path]], server: KaggleServer
) -> None:
    server.etag = etag
    server.break_after, server.breaks = 50_000, 1

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    folder = prepare("sample")["events"].parent
    with pytest.raises(KeyboardInterrupt):
        KaggleSource(folder, "full", wait=stop).prepare()
    assert (folder / f"{BIG}.partial").stat().st_size == 50_000
    server.requests.clear()
    assert_complete(prepare())
    assert [r.headers["Range"] for r in server.calls("storage") if "Range" in r.headers] == ["bytes=50000-"]


def test_a_server_without_ranges_is_read_from_the_start(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer
) -> None:
    server.ranges = False
    server.break_after, server.breaks = 50_000, 1
    assert_complete(prepare())


def test_a_partial_file_of_another_version_is_not_continued(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, tmp_path: Path, waits: list[float]
) -> None:
    prepare("sample")
    folder = tmp_path / "kaggle"
    (folder / f"{BIG}.partial").write_bytes(b"x" * 1000)
    record = json.loads((folder / "downloads.json").read_text())
    record[BIG] = {"etag": '"older"', "size": len(FILES[f"{BIG}.csv.zip"]), "checksum": None}
    (folder / "downloads.json").write_text(json.dumps(record))
    server.requests.clear()
    assert_complete(prepare())
    assert ["Range" in r.headers for r in server.calls("storage")] == [True, False]
    assert waits == []


def test_a_process_killed_in_the_middle_is_continued_by_the_next(tmp_path: Path, server: KaggleServer) -> None:
    folder = tmp_path / "kaggle"
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom pipeline.sources.kaggle import KaggleSource\n"
        "def wait(seconds):\n    print('waiting', flush=True)\n    time.sleep(60)\n"
        f"KaggleSource(Path({str(folder)!r}), 'full', wait=wait).prepare()\nprint('done', flush=True)\n"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, **server.environment(tmp_path)}
    server.break_after, server.breaks = 50_000, 1
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGKILL)
    assert (folder / f"{BIG}.partial").stat().st_size == 50_000
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout == "done\n", done.stderr
    assert (folder / f"{BIG}.csv.zip").read_bytes() == FILES[f"{BIG}.csv.zip"]
    assert "bytes=50000-" in [request.headers.get("Range") for request in server.requests]


# ---- damaged bytes ----


def test_a_wrong_checksum_is_tried_twice_and_told(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, tmp_path: Path
) -> None:
    server.checksum = "wrong"
    with pytest.raises(KaggleError, match=r"clicks_train\.csv\.zip: the checksum differs: what came has md5="):
        prepare()
    assert len(server.calls("storage")) == 2
    assert not list((tmp_path / "kaggle").glob("clicks_train.*"))


class Crc32c:
    """Stands for google_crc32c.Checksum: what matters here is who wins, not the arithmetic."""

    def __init__(self) -> None:
        self.data = b""

    def update(self, block: bytes) -> None:
        self.data += block

    def digest(self) -> bytes:
        return (sum(self.data) % 2**32).to_bytes(4, "big")


@pytest.mark.parametrize("right", [True, False])
def test_a_crc32c_told_alone_is_checked(
    *, right: bool, prepare: Callable[..., dict[str, Path]], server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", SimpleNamespace(Checksum=Crc32c))
    crc = Crc32c()
    crc.update(FILES["clicks_train.csv.zip"])
    server.checksum = f"crc32c={base64.b64encode(crc.digest()).decode()}" if right else "crc32c=AAAAAA=="
    with pytest.raises(KaggleError) as caught:
        prepare("none")  # the same checksum cannot be right for the file after the first
    assert str(caught.value).startswith(f"Kaggle, downloading {'clicks_test' if right else 'clicks_train'}.csv.zip: ")


def test_a_crc32c_without_its_package_is_left_out(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    server.checksum = "crc32c=AAAAAA=="
    assert_complete(prepare("none"), "none")


def test_a_size_other_than_the_listed_one_is_told(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer
) -> None:
    server.listed_sizes = {"clicks_train.csv.zip": 4}
    with pytest.raises(KaggleError, match=r"clicks_train\.csv\.zip: \d+ bytes came, the competition's listing says 4"):
        prepare()


def test_a_page_in_place_of_a_zip_is_told(prepare: Callable[..., dict[str, Path]], server: KaggleServer) -> None:
    server.files["clicks_train.csv.zip"] = b"<html>Sign in</html>"
    with pytest.raises(KaggleError, match="is not a zip"):
        prepare()


# ---- refusals ----


@pytest.mark.parametrize(
    ("call", "status", "says"),
    [
        ("ListDataFiles", 401, r"HTTP 401: the credentials were refused.*Settings > API"),
        (
            "DownloadDataFile",
            403,
            r"downloading clicks_train\.csv\.zip: HTTP 403.*accept the competition's rules at https",
        ),
        ("DownloadDataFile", 404, r"downloading clicks_train\.csv\.zip: HTTP 404: not found"),
        ("ListDataFiles", 404, r"listing the competition's files: HTTP 404: not found"),
        ("storage", 400, r"HTTP 400"),
    ],
)
def test_refusals_are_told_at_once(
    call: str, status: int, says: str, prepare: Callable[..., dict[str, Path]], server: KaggleServer, waits: list[float]
) -> None:
    server.refuse(call, status)
    with pytest.raises(KaggleError, match=f"(?s){says}") as caught:
        prepare()
    assert caught.value.status == status
    assert waits == []


def test_a_refusal_that_stands_in_the_body_alone_counts(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer
) -> None:
    server.refuse("ListDataFiles", 403, in_body_only=True)
    with pytest.raises(KaggleError, match="HTTP 403"):
        prepare()


@pytest.mark.parametrize("call", ["IntrospectToken", "ListDataFiles", "DownloadDataFile", "storage"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_refusals_are_waited_for(
    call: str, status: int, prepare: Callable[..., dict[str, Path]], server: KaggleServer, waits: list[float]
) -> None:
    server.refuse(call, status, times=3)
    assert_complete(prepare("none"), "none")
    assert waits == [2.0, 4.0, 8.0]


def test_the_server_may_say_how_long_to_wait(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, waits: list[float]
) -> None:
    server.refuse("ListDataFiles", 429, times=1, Retry_After="17")
    prepare("none")
    assert waits == [17.0]
    server.files["events.csv.zip"] = zipped("events", b"2,3\n" * 9)
    (Path(prepare("none")["events"])).unlink()
    server.refuse("ListDataFiles", 429, Retry_After="86400")
    with pytest.raises(KaggleError, match="HTTP 429: too many requests; wait an hour"):
        prepare("none")
    assert waits == [17.0]


def test_lasting_refusals_end_after_some_tries(
    prepare: Callable[..., dict[str, Path]], server: KaggleServer, waits: list[float]
) -> None:
    server.refuse("ListDataFiles", 502)
    with pytest.raises(KaggleError, match="HTTP 502: run again later"):
        prepare()
    assert waits == [2.0, 4.0, 8.0, 16.0]


def test_no_server_at_all_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    with KaggleServer() as gone:
        gone.sign_in(monkeypatch, tmp_path)
    with pytest.raises(KaggleError, match="signing in: no answer, or the connection broke"):
        KaggleSource(tmp_path / "kaggle", "full", wait=waits.append).prepare()
    assert len(waits) == 4


# ---- credentials ----


def test_missing_credentials_are_told_first_with_what_to_do(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.sign_in(monkeypatch, tmp_path / "home", token=None)
    stdin = sys.stdin
    with pytest.raises(
        UserError, match=r"(?s)missing.*Settings > API.*access_token.*KAGGLE_API_TOKEN.*rules"
    ) as caught:
        KaggleSource(tmp_path / "kaggle", "full").prepare()
    assert len(str(caught.value).splitlines()) <= 6
    assert server.requests == []
    assert not (tmp_path / "kaggle").exists()
    assert capsys.readouterr().out == ""
    assert sys.stdin is stdin


def test_missing_credentials_in_a_fresh_process(tmp_path: Path) -> None:
    """The first import of the client, too, prints nothing and exits nothing."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.core.errors import UserError\n"
        "from pipeline.sources.kaggle import KaggleSource\n"
        "try:\n    KaggleSource(Path('nowhere'), 'full').prepare()\n"
        "except UserError as error:\n    print('told:', str(error)[:40], sys.stdin.closed)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KAGGLE_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("told: Kaggle's credentials are missing or not  False\n", "")


@pytest.mark.parametrize("place", ["token file", "kaggle.json", "username and key"])
def test_credentials_are_found_where_the_client_looks(
    place: str, server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"KAGGLE_USERNAME": USERNAME, "KAGGLE_KEY": KEY} if place == "username and key" else {}
    server.sign_in(monkeypatch, tmp_path, token=None, **variables)
    if place == "token file":
        (tmp_path / ".kaggle" / "access_token").write_text(TOKEN + "\n")
    elif place == "kaggle.json":
        (tmp_path / ".kaggle" / "kaggle.json").write_text(json.dumps({"username": USERNAME, "key": KEY}))
        (tmp_path / ".kaggle" / "kaggle.json").chmod(0o600)
    assert_complete(KaggleSource(tmp_path / "kaggle", "none").prepare(), "none")


def secrets_of(secret: str) -> list[str]:
    basic = base64.b64encode(f"{USERNAME}:{secret}".encode()).decode()
    return [secret, basic, "X-Goog-Signature"]


@pytest.mark.parametrize("kind", ["token", "key"])
@pytest.mark.parametrize(
    "trouble",
    ["none", "401", "403", "broken", "wrong token", "500", "bad json", "storage refuses", "long token"],
)
def test_credentials_are_told_to_nobody(
    kind: str, trouble: str, server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Whatever goes wrong: not in output, logs, messages, tracebacks (with what is chained to them), or files."""
    secret = TOKEN if kind == "token" else KEY
    if trouble == "wrong token":
        secret = "KGAT_wrong-" + secret
    elif trouble == "long token":
        secret = "KGAT_long-" + "z" * 300  # longer than a file name may be: the client takes it for a path first
    how = {"token": secret} if kind == "token" else {"token": None, "KAGGLE_USERNAME": USERNAME, "KAGGLE_KEY": secret}
    server.sign_in(monkeypatch, tmp_path / "home", **how)
    for call, status in {"401": ("ListDataFiles", 401), "403": ("DownloadDataFile", 403), "500": ("ListDataFiles", 500),
                         "storage refuses": ("storage", 403)}.items():  # fmt: skip
        if trouble == call:
            server.refuse(*status)
    if trouble == "broken":
        server.break_after, server.breaks, server.ranges = 100, 1_000, False
    if trouble == "bad json":
        server.refuse("ListDataFiles", 418, in_body_only=True)
    monkeypatch.setenv("VERBOSE", "true")
    caplog.set_level(logging.DEBUG)
    with nullcontext() if trouble == "none" else pytest.raises(KaggleError) as caught:
        KaggleSource(tmp_path / "kaggle", "full", wait=lambda _: None).prepare()
    shown = ""
    if caught:
        error = caught.value
        assert (error.__context__, error.__cause__) == (None, None)
        below = caught.tb.tb_next  # this function's own locals hold the secret
        told = traceback.TracebackException(type(error), error, below, capture_locals=True)
        shown = "".join(told.format(chain=True)) + repr(error) + str(error)
    shown += "".join(capfd.readouterr()) + caplog.text
    shown += "".join(path.read_text("latin-1") for path in (tmp_path / "kaggle").rglob("*") if path.is_file())
    for text in secrets_of(secret):
        assert text not in shown


def test_a_fresh_process_with_verbose_set_tells_no_credentials(server: KaggleServer, tmp_path: Path) -> None:
    """The client reads VERBOSE when it is imported; it would print every request's headers and log at DEBUG."""
    program = (
        "from pathlib import Path\nfrom pipeline.sources.kaggle import KaggleSource\n"
        f"KaggleSource(Path({str(tmp_path / 'kaggle')!r}), 'none').prepare()\nprint('done')\n"
    )
    environment = {**os.environ, **server.environment(tmp_path), "VERBOSE": "true", "VERBOSE_OUTPUT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_the_storage_gets_no_credentials(prepare: Callable[..., dict[str, Path]], server: KaggleServer) -> None:
    server.break_after, server.breaks = 50_000, 1
    prepare()
    storage = server.calls("storage")
    assert any("Range" in request.headers for request in storage)
    assert not [request for request in storage if "Authorization" in request.headers]


# ---- submissions: the server's other half ----


def test_the_client_submits_and_reads_its_scores(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sign_in(monkeypatch, tmp_path)
    server.pending = 1
    server.score = lambda data: ("0.68", "0.69") if data.startswith(b"display_id,ad_id") else "wrong header"
    path = tmp_path / "blend.csv"
    path.write_text("display_id,ad_id\n16874594,66758 150083\n")
    with Kaggle() as kaggle:
        answer = kaggle.call(
            "submitting",
            lambda: kaggle.api.competition_submit(str(path), "a test", "outbrain-click-prediction", quiet=True),
        )
        assert answer.ref == 1000
        first = kaggle.api.competition_submissions("outbrain-click-prediction")[0]
        second = kaggle.api.competition_submissions("outbrain-click-prediction")[0]
    assert server.submissions[0].data == path.read_bytes()
    assert (first.status.name, first.public_score) == ("PENDING", "")
    assert (second.status.name, second.public_score, second.private_score) == ("COMPLETE", "0.68", "0.69")
    assert (second.ref, second.description, second.file_name) == (1000, "a test", "blend.csv")
