"""The source `kaggle`: downloads the competition's files with Kaggle's own client, and goes on where it was stopped.

The client signs in, lists the files and opens a download; the bytes are streamed here, because the client writes under
the final name (a killed download looks finished), checks no checksum, and may write an error page into the file.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import time
import zipfile
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests

from pipeline.core.errors import InputError
from pipeline.core.files import read_json, write_json
from pipeline.core.progress import bar, log
from pipeline.kaggle_client import (
    COMPETITION,
    FAILURES,
    Failure,
    Kaggle,
    RemoteFile,
    TransferError,
    Wait,
)
from pipeline.schemas.raw import RAW_FILES
from pipeline.sources.base import PageViews, wanted
from pipeline.sources.directory import check_zip, select

_BLOCK = 1 << 20  # bytes read at a time
_SPARE = 100 << 20  # bytes of disk that a download leaves free
_RECORD = "downloads.json"


class KaggleSource:
    """The competition's files, downloaded into `folder`, which is no output of a stage: a rerun finds them again.

    Beside the files lie NAME.partial while NAME is on its way, and `downloads.json`: size and md5 of each finished
    file; size, ETag and checksum of what an unfinished one is a part of.
    """

    def __init__(self, folder: Path, page_views: PageViews, *, wait: Wait = time.sleep) -> None:
        self.folder = folder
        self.page_views = page_views
        self.wait = wait

    def prepare(self) -> dict[str, Path]:
        """Download what is wanted and not there yet: name -> path of NAME.csv.zip (NAME.csv, if Kaggle sends it so).

        When every wanted file is there, Kaggle is not asked and no credentials are needed.
        Raises KaggleError if Kaggle cannot be asked or refuses, InputError if a file is not on Kaggle, is not what it
        should be, or does not fit on the disk.
        """
        names = wanted(self.page_views)
        there = {name: path for name in names if (path := self._finished(name))}
        if len(there) == len(names):
            return there
        with Kaggle(self.wait) as kaggle:
            chosen = self._choose(kaggle.files())
            missing = [file for file in chosen.values() if not self._finished(file.name) and not self._adopt(file)]
            self._check_space(missing)
            for file in missing:
                self._fetch(kaggle, file)
        return {name: path for name in chosen if (path := self._finished(name))}

    def _choose(self, listed: dict[str, RemoteFile]) -> dict[str, RemoteFile]:
        missing = [name for name, file in RAW_FILES.items() if file.required and name not in listed]
        if missing:
            raise InputError(
                f"Kaggle's competition {COMPETITION} lists no {', '.join(missing)}; expected NAME.csv.zip or NAME.csv; "
                f"found: {', '.join(file.listed for file in listed.values()) or 'none of the files'}"
            )
        return select(listed, self.page_views, f"Kaggle's competition {COMPETITION}")

    # ---- what is there ----

    def _record(self) -> dict[str, Any]:
        """downloads.json: an entry a file; what cannot be read is left out, its file is then recognised by its size."""
        try:
            record = read_json(self.folder / _RECORD)
        except (OSError, ValueError):
            return {}
        return {k: v for k, v in record.items() if isinstance(v, dict)} if isinstance(record, dict) else {}

    def _note(self, name: str, entry: dict[str, Any]) -> None:
        write_json(self.folder / _RECORD, {**self._record(), name: entry})

    def _finished(self, name: str) -> Path | None:
        """The path of a file that was downloaded to its end and is as long as it was then, or None."""
        entry = self._record().get(name, {})
        if "md5" not in entry:
            return None
        path = self.folder / Path(str(entry.get("file"))).name
        return path if path.is_file() and path.stat().st_size == entry.get("size") else None

    def _adopt(self, file: RemoteFile) -> bool:
        """Take over NAME.csv.zip that came here another way, if it is whole and as long as Kaggle's."""
        path = self.folder / f"{file.name}.csv.zip"
        try:
            check_zip(path, file.name)
        except InputError:
            return False
        if not _fits(path, file):
            return False
        log.info("%s: found, as long as Kaggle's; not downloaded", path)
        digest = _Digest(None)
        with bar(path.stat().st_size, f"md5 of {path.name}", unit="B") as progress:
            _hash(path, digest, progress)
        self._note(file.name, {"file": path.name, "md5": digest.md5, "size": path.stat().st_size})
        return True

    def _check_space(self, files: list[RemoteFile]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: the folder cannot be made: {error.strerror}") from None
        needed = sum(max(file.size - _size(self._partial(file)), 0) for file in files)
        free = shutil.disk_usage(self.folder).free
        if files and needed + _SPARE > free:
            names = ", ".join(file.listed for file in files)
            raise InputError(
                f"{self.folder}: {_gigabytes(needed)} to download ({names}), but only {_gigabytes(free)} free on its "
                "disk; make room, or set data.page_views to sample or none"
            )

    def _partial(self, file: RemoteFile) -> Path:
        return self.folder / f"{file.name}.partial"

    # ---- downloading ----

    def _fetch(self, kaggle: Kaggle, file: RemoteFile) -> None:
        """Download one file, going on after each broken connection as long as that brings bytes."""
        partial = self._partial(file)
        patience = kaggle.patience(f"downloading {file.listed}")
        with bar(file.size or None, file.listed, unit="B") as progress:
            while True:
                before = _size(partial)
                try:
                    entry = self._attempt(kaggle, file, progress)
                    break
                except FAILURES as error:
                    failure = Failure.of(error)
                except OSError as error:
                    raise InputError(f"{partial}: cannot be written: {error.strerror}; check its disk") from None
                patience.after(failure, progressed=_size(partial) > before)
        partial.replace(self.folder / entry["file"])
        self._note(file.name, entry)
        log.info("%s: downloaded, %d bytes, md5 %s", file.listed, entry["size"], entry["md5"])

    def _attempt(self, kaggle: Kaggle, file: RemoteFile, progress: Any) -> dict[str, Any]:
        """Bring the partial file to its end: its entry for the record. Raises one of FAILURES; what came is kept."""
        partial = self._partial(file)
        response, start = self._opened(kaggle, file)
        with closing(response):
            expected = _announced(response, self._record().get(file.name, {}))
            self._note(file.name, expected)
            digest = _Digest(expected["checksum"])
            progress.reset(expected["size"] or file.size or None)
            if start:
                log.info("%s: going on at byte %d", file.listed, start)
                os.truncate(partial, start)
                _hash(partial, digest, progress)
            with partial.open("ab" if start else "wb") as out:
                while block := response.raw.read1(
                    _BLOCK, decode_content=True
                ):  # what has come, so that a break loses nothing
                    out.write(block)
                    digest.update(block)
                    progress.update(len(block))
        if _size(partial) < (expected["size"] or 0):
            raise requests.ConnectionError("the body ended early")
        try:
            return _checked(partial, file, expected, digest)
        except TransferError:
            partial.unlink()  # nothing tells which of its bytes are wrong
            raise

    def _opened(self, kaggle: Kaggle, file: RemoteFile) -> tuple[requests.Response, int]:
        """A response, and the byte that it begins at: where the partial file ends, if the server can do that."""
        part = self._record().get(file.name, {})
        here, whole = _size(self._partial(file)), part.get("size") or 0
        # At least one byte is asked for: if the whole file is there, the range would be empty, which is an error.
        start = min(here, whole - 1) if 0 < here <= whole else 0
        response = kaggle.open(file.listed, start)
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            return response, 0
        offer = _announced(response, part)
        if response.headers.get("Content-Range", "").startswith(f"bytes {start}-") and offer == part:
            return response, start
        response.close()  # another version than the one that the partial file is a part of
        return kaggle.open(file.listed), 0


def _announced(response: requests.Response, before: dict[str, Any]) -> dict[str, Any]:
    """What tells one version of a file from another: ETag, size and checksum, each None if the server does not tell it.

    The checksum is that of x-goog-hash (Google's storage: `crc32c=...,md5=...`, of composed objects crc32c alone) or
    Content-MD5; with a part, the latter would be the part's, so what was told `before` holds.
    """
    headers = response.headers
    part = response.status_code == HTTPStatus.PARTIAL_CONTENT
    length = headers.get("Content-Range", "").rpartition("/")[2] if part else headers.get("Content-Length", "")
    if headers.get("Content-Encoding", "identity") != "identity":
        length = ""  # what is sent is not as long as the file
    told = [each.strip() for each in headers.get("x-goog-hash", "").split(",")]
    told = [each for each in told if each.startswith(("md5=", "crc32c="))]
    if "Content-MD5" in headers and not part:
        told.append(f"md5={headers['Content-MD5']}")
    checksum = max(told, default=before.get("checksum") if part else None)  # md5 comes after crc32c
    return {"etag": headers.get("ETag"), "size": int(length) if length.isdigit() else None, "checksum": checksum}


class _Digest:
    """The md5 that goes into the record, and the checksum that the server told, if it is one that can be computed."""

    def __init__(self, told: str | None) -> None:
        self.told = told
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._crc32c = _new_crc32c() if told and told.startswith("crc32c=") else None

    def update(self, block: bytes) -> None:
        self._md5.update(block)
        if self._crc32c:
            self._crc32c.update(block)

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    @property
    def found(self) -> str | None:
        """What stands against `told`, in the same form; None if there is nothing to compare."""
        if self.told and self.told.startswith("md5="):
            return f"md5={base64.b64encode(self._md5.digest()).decode()}"
        return f"crc32c={base64.b64encode(self._crc32c.digest()).decode()}" if self._crc32c else None


def _new_crc32c() -> Any:
    try:
        from google_crc32c import Checksum  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        log.info(
            "the only checksum told is crc32c, which needs the package google-crc32c; the size and the zip are checked"
        )
        return None
    return Checksum()


def _checked(partial: Path, file: RemoteFile, expected: dict[str, Any], digest: _Digest) -> dict[str, Any]:
    """The record's entry of a finished file; TransferError if a size, the checksum or the zip is not as announced."""
    size = _size(partial)
    if expected["size"] not in (None, size):
        raise TransferError(f"{size} bytes came, the server had announced {expected['size']}")
    if digest.found not in (None, digest.told):
        raise TransferError(f"the checksum differs: what came has {digest.found}, what was sent has {digest.told}")
    zipped = file.listed.endswith(".zip") or zipfile.is_zipfile(partial)
    if zipped:
        try:
            check_zip(partial, file.name)
        except InputError as error:
            raise TransferError(str(error)) from None
    if not _fits(partial, file):
        raise TransferError(f"{size} bytes came, the competition's listing says {file.size}")
    return {"file": f"{file.name}.csv.zip" if zipped else f"{file.name}.csv", "md5": digest.md5, "size": size}


def _fits(path: Path, file: RemoteFile) -> bool:
    """Whether a file is as long as the listing says; of one listed as NAME.csv but sent as a zip, the member counts."""
    if not file.size or file.size == _size(path):
        return True
    if file.listed.endswith(".zip") or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return file.size in [member.file_size for member in archive.infolist()]


def _hash(path: Path, digest: _Digest, progress: Any) -> None:
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            progress.update(len(block))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
