"""The source `directory`: files that somebody already has, read in place, never copied or changed."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pipeline.core.errors import InputError
from pipeline.core.files import zip_members
from pipeline.core.progress import log
from pipeline.sources.base import PageViews, find_files, wanted

T = TypeVar("T")

_ZIP_MAGIC = b"PK\x03\x04"
_PARQUET_MAGIC = b"PAR1"
_PARQUET_LEAST_BYTES = 12  # magic, length of the footer, magic
_ENCRYPTED = 0x1  # bit 0 of a member's flags
_VIEWS_FILE: dict[PageViews, str] = {"full": "page_views", "sample": "page_views_sample"}
_FALLBACK: dict[PageViews, PageViews] = {"full": "sample", "sample": "none"}


class DirectorySource:
    """The competition's files in `folder`, each as NAME.csv, NAME.csv.zip or NAME.parquet."""

    def __init__(self, folder: Path, page_views: PageViews) -> None:
        self.folder = folder
        self.page_views = page_views

    def prepare(self) -> dict[str, Path]:
        """Find the wanted files and look at their ends (not at their rows): name -> path of each.

        Raises InputError if the folder or a required file is missing, or if a wanted file is empty, unreadable or not
        what its name says: a run should stop here, not after the hours that the files before it took.
        """
        try:
            found = find_files(self.folder)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be read: {error.strerror}; check its permissions") from None
        files = select(found, self.page_views, str(self.folder))
        for name, path in files.items():
            check_file(path, name)
        return files


def select(found: Mapping[str, T], page_views: PageViews, where: str) -> dict[str, T]:
    """Those entries of `found` (by name of raw file) that a run reads, in the competition's order.

    If the chosen file of page views is not in `found`, the next smaller choice takes its place, with a warning.
    """
    while page_views != "none" and _VIEWS_FILE[page_views] not in found:
        smaller = _FALLBACK[page_views]
        log.warning(
            "data.page_views is %s, but %s holds no %s; going on as with %s", page_views, where,
            _VIEWS_FILE[page_views], smaller,
        )  # fmt: skip
        page_views = smaller
    return {name: found[name] for name in wanted(page_views) if name in found}


def check_file(path: Path, name: str) -> None:
    """InputError unless `path` can be read, is not empty and begins and ends like the format that its name promises."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(max(size - 4, 0))
            tail = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; check its permissions and its disk") from None
    if not size:
        raise InputError(f"{path}: is empty; expected the competition's {name}; copy or download it again")
    if path.suffix == ".zip":
        check_zip(path, name)
    elif path.suffix == ".parquet":
        if size < _PARQUET_LEAST_BYTES or (head, tail) != (_PARQUET_MAGIC, _PARQUET_MAGIC):
            problem = "is truncated" if head == _PARQUET_MAGIC else f"is no Parquet file (it begins with {head!r})"
            raise InputError(f"{path}: {problem}; a Parquet file begins and ends with PAR1; write it again")
    elif head == _ZIP_MAGIC:
        raise InputError(f"{path}: is a zip, not a CSV; rename it to {name}.csv.zip")


def check_zip(path: Path, name: str) -> None:
    """InputError unless the zip is whole and holds exactly one file (of `zip_members`), NAME.csv, in whatever folder.

    It reads the central directory (at the file's end) and the member's first bytes, so it costs the same for any size.
    The checksum of the member's data is left to the reader that streams it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = zip_members(archive)
            names = ", ".join(member.filename for member in members[:5]) or "nothing"
            if len(members) != 1 or Path(members[0].filename).name != f"{name}.csv":
                raise InputError(f"{path}: expected one member, {name}.csv; found {names}; zip that file alone")
            member = members[0]
            if member.flag_bits & _ENCRYPTED:
                raise InputError(f"{path}: {name}.csv is encrypted; zip it without a password")
            if not member.file_size:
                raise InputError(f"{path}: {name}.csv in it is empty; download it again")
            if member.header_offset < 0:  # the directory counts more bytes before it than there are
                raise zipfile.BadZipFile
            with archive.open(member) as stream:
                stream.read(1)
    except NotImplementedError:
        return  # a compression that zipfile does not know (Deflate64): whether it can be read is the reader's matter
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError):
        raise InputError(f"{path}: {_zip_problem(path)}; expected a zip of {name}.csv; download it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check its disk") from None


def _zip_problem(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    return "is truncated or damaged" if head == _ZIP_MAGIC else f"is not a zip (it begins with {head!r})"
