"""Sending a submission to Kaggle: checked once more, within the day's limit, and filed beside its validation scores.

`submissions/log.csv` holds a line for each submission that was sent. A line is written before it is sent, so that
nothing that was sent is ever lost from it; whoever runs the command again fills in what has been scored since.
"""

from __future__ import annotations

import csv
import hashlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import atomic_path
from pipeline.core.progress import log
from pipeline.kaggle_client import COMPETITION, Kaggle, KaggleError
from pipeline.metrics import CUTOFF

_POLL_SECONDS = 15.0
_NO_REF = (
    "this line of the log has no reference of Kaggle's, so nobody can ask for its score; look at your submissions on"
    " Kaggle, and write its number into the log if it arrived, or take the line out"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A line of submissions/log.csv. commit: see `commit`.

    present, future, validation: MAP@12 of the validation split, the last one weighted. public, private: Kaggle's, empty
    until they are known. status: pending, complete or error. ref: Kaggle's; empty while it is being sent, and for good
    if that was cut off. sha256: the first digits of the file's, to know it again.
    """

    name: str
    commit: str
    present: str
    future: str
    validation: str
    public: str = ""
    private: str = ""
    status: str = "pending"
    ref: str = ""
    sha256: str = ""


# --- the file ----------------------------------------------------------------------------------------------------


def check_csv(path: Path, clicks_test: Path) -> int:
    """Check a submission (CSV, or CSV gzipped) against the table clicks_test; returns the number of its displays.

    Raises InputError, with the line, unless it names every display once and every ad of it once (of a display with more
    than 12 ads, 12 of them), and nothing else.
    """
    displays, ads, lengths = _read(path)
    existing(clicks_test, "run `dvc repro` first, whose stage `ingest` makes it")
    expected = pq.read_table(clicks_test, columns=["display_id", "ad_id"])
    lines = np.arange(len(displays)) + 2
    _refuse_repeated(displays, lines, f"{path}, line {{line}}: display {{value}} stands in the file twice")
    expected_displays, sizes = np.unique(expected["display_id"].to_numpy(), return_counts=True)
    at = np.minimum(np.searchsorted(expected_displays, displays), len(expected_displays) - 1)
    foreign = expected_displays[at] != displays
    if foreign.any():
        i = int(foreign.argmax())
        raise InputError(f"{path}, line {lines[i]}: display {displays[i]} is not in clicks_test")
    missing = np.setdiff1d(expected_displays, displays, assume_unique=True)
    if len(missing):
        raise InputError(
            f"{path}: expected the {len(expected_displays)} displays of clicks_test, {len(missing)} are missing, the"
            f" first of them {missing[0]}"
        )
    wrong = lengths != np.minimum(sizes[at], CUTOFF)
    if wrong.any():
        i = int(wrong.argmax())
        ads_expected = min(int(sizes[at[i]]), CUTOFF)
        raise InputError(f"{path}, line {lines[i]}: expected {ads_expected} ads, found {lengths[i]}")
    of_ads, keys = np.repeat(lines, lengths), _keys(np.repeat(displays, lengths), ads)
    _refuse_repeated(keys, of_ads, f"{path}, line {{line}}: names an ad twice")
    known = np.sort(_keys(expected["display_id"].to_numpy(), expected["ad_id"].to_numpy()))
    foreign = known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] != keys
    if foreign.any():
        i = int(foreign.argmax())
        raise InputError(f"{path}, line {of_ads[i]}: ad {ads[i]} is not among the ads of its display in clicks_test")
    return len(displays)


def _read(path: Path) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
    """The display of each line (D,), all ads (N,) one line after the other, and how many each line has (D,)."""
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            table = pcsv.read_csv(
                stream,
                parse_options=pcsv.ParseOptions(quote_char=False),
                convert_options=pcsv.ConvertOptions(column_types={"display_id": pa.uint32(), "ad_id": pa.string()}),
            )
        if table.column_names != ["display_id", "ad_id"]:
            raise InputError(f"{path}, line 1: expected display_id,ad_id, found {','.join(table.column_names)}")
        lists = pc.split_pattern(table["ad_id"], " ").combine_chunks()
        ads = pc.cast(lists.flatten(), pa.uint32())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage `submission` first") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a submission, or cut off: {str(error).splitlines()[0]}") from None
    return table["display_id"].to_numpy(), ads.to_numpy(), lists.value_lengths().to_numpy().astype(np.int64)


def _keys(displays: NDArray[Any], ads: NDArray[Any]) -> NDArray[np.uint64]:
    return (displays.astype(np.uint64) << np.uint64(32)) | ads.astype(np.uint64)


def _refuse_repeated(values: NDArray[Any], lines: NDArray[np.int64], message: str) -> None:
    order = np.argsort(values, kind="stable")
    again = values[order][1:] == values[order][:-1]
    if again.any():
        second = order[1:][again].min()
        raise InputError(message.format(line=lines[second], value=values[second]))


def existing(path: Path, advice: str) -> Path:
    """The path of a file that is there; InputError, with what to do, if it is not."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {advice}")
    return path


def digest(path: Path) -> str:
    """The first digits of the SHA-256 of a CSV's text, whether or not it is gzipped."""
    text = hashlib.sha256()
    with pa.input_stream(str(path), compression="detect") as stream:
        while piece := stream.read(1 << 24):
            text.update(piece)
    return text.hexdigest()[:16]


def commit(path: Path) -> str:
    """The first commit whose dvc.lock tells of a file: that of the code that made it.

    If there is none, the current one with a +, since nobody knows what has changed beside it; empty outside a
    repository.
    """

    def git(*arguments: str) -> list[str]:
        found = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
        return found.stdout.split()

    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    told = git("log", "--reverse", "--format=%h", f"-S{md5}", "--", "dvc.lock")
    return told[0] if told else "".join(f"{head}+" for head in git("rev-parse", "--short", "HEAD"))


# --- the log -----------------------------------------------------------------------------------------------------


def read_log(path: Path) -> list[Entry]:
    """All lines, oldest first; none if there is no file. InputError if it is not such a log."""
    if not path.exists():
        return []
    names = [field.name for field in fields(Entry)]
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames != names:
            found = ",".join(rows.fieldnames or ())
            raise InputError(f"{path}, line 1: expected {','.join(names)}, found {found}")
        return [Entry(**row) for row in rows]


def write_log(path: Path, entries: list[Entry]) -> None:
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Entry)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in entries)


# --- Kaggle ------------------------------------------------------------------------------------------------------


def submissions_left(kaggle: Kaggle) -> int | None:
    """How many submissions Kaggle takes for the rest of the day (UTC); None if it cannot tell before the first one.

    Raises KaggleError if it takes none, which says whether that is for today or for good.
    """
    limits = kaggle.call("asking for the limits", lambda: kaggle.api.competition_get_submission_limits(COMPETITION))
    if limits.num_allowed_now:
        return int(limits.num_allowed_now)
    if limits.limited_by_total:
        raise KaggleError(
            f"Kaggle takes no more: the limit of all submissions is reached, {limits.num_total} were made"
        )
    if limits.num_total:
        raise KaggleError("the daily limit of submissions is reached; Kaggle takes the next after 00:00 UTC")
    return None


def upload(kaggle: Kaggle, path: Path) -> str:
    """Upload a file, which is not yet a submission; returns the token by which it can become one."""
    started = kaggle.call("announcing the upload", lambda: _start(kaggle, path))
    kaggle.call("uploading the submission", lambda: kaggle.upload(path, started.create_url))
    return str(started.token)


def submit(kaggle: Kaggle, token: str, message: str) -> int:
    """Submit an uploaded file; returns Kaggle's reference.

    It is tried only once: after a failure nobody knows whether it arrived, and it counts. Raises KaggleError; one with
    a status below 500 is an answer, so nothing was submitted.
    """
    created = kaggle.call_once(
        "submitting (look at your submissions on Kaggle before you try again)",
        lambda: _create(kaggle, token, message),
    )
    if not created.ref:
        raise KaggleError(
            f"Kaggle did not take the submission: {created.message or 'it gave no reason'}", HTTPStatus.OK
        )
    return int(created.ref)


def _start(kaggle: Kaggle, path: Path) -> Any:
    from kagglesdk.competitions.types.competition_api_service import ApiStartSubmissionUploadRequest

    request = ApiStartSubmissionUploadRequest()
    request.competition_name, request.file_name = COMPETITION, path.name
    request.content_length, request.last_modified_epoch_seconds = path.stat().st_size, int(path.stat().st_mtime)
    return kaggle.competitions.start_submission_upload(request)


def _create(kaggle: Kaggle, token: str, message: str) -> Any:
    from kagglesdk.competitions.types.competition_api_service import ApiCreateSubmissionRequest

    request = ApiCreateSubmissionRequest()
    request.competition_name, request.blob_file_tokens = COMPETITION, token
    request.submission_description = message
    return kaggle.competitions.create_submission(request)


def scored(kaggle: Kaggle, entry: Entry) -> Entry:
    """The entry with what Kaggle says of it by now."""
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

    request = ApiGetSubmissionRequest()
    request.ref = int(entry.ref)
    found = kaggle.call("asking for the score", lambda: kaggle.competitions.get_submission(request))
    status = found.status.name.lower()
    if status == "error":
        log.warning("Kaggle could not score submission %s: %s", entry.ref, found.error_description)
    return replace(entry, status=status, public=found.public_score or "", private=found.private_score or "")


def refreshed(kaggle: Kaggle, entries: list[Entry]) -> list[Entry]:
    """The log with what Kaggle says by now of what was pending; a line that it cannot tell of stays, with a warning."""

    def refresh(entry: Entry) -> Entry:
        if not entry.ref.isdecimal():
            log.warning("%s, ref %r: %s", entry.name, entry.ref, _NO_REF)
            return entry
        try:
            return scored(kaggle, entry)
        except KaggleError as error:
            log.warning("%s, ref %s: still pending in the log: %s", entry.name, entry.ref, error)
            return entry

    return [refresh(entry) if entry.status == "pending" else entry for entry in entries]


def wait_for_score(kaggle: Kaggle, entry: Entry, seconds: float, sleep: Callable[[float], None] = time.sleep) -> Entry:
    """Ask until Kaggle has scored the entry, for so long at most."""
    entry, waited = scored(kaggle, entry), 0.0
    while entry.status == "pending" and waited < seconds:
        pause = min(_POLL_SECONDS, seconds - waited)
        sleep(pause)
        waited += pause
        entry = scored(kaggle, entry)
    return entry
