"""Files found in place: which of them, and what is told about those that cannot be what they should be."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.schemas.raw import RAW_FILES
from pipeline.sources.base import PageViews, wanted
from pipeline.sources.directory import DirectorySource

CSV = b"display_id,ad_id,clicked\n1,42337,0\n"
NAME = "clicks_train"


def zip_of(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return memory.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every file as CSV."""
    for name in RAW_FILES:
        (tmp_path / f"{name}.csv").write_bytes(CSV)
    return tmp_path


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("page_views", ["full", "sample", "none"])
def test_wanted_files_are_found_in_place(page_views: PageViews, folder: Path) -> None:
    before = state(folder)
    paths = DirectorySource(folder, page_views).prepare()
    assert list(paths) == wanted(page_views)
    assert all(path == folder / f"{name}.csv" for name, path in paths.items())
    assert state(folder) == before


def test_each_form_is_found_and_the_cheapest_to_read_comes_first(folder: Path) -> None:
    (folder / "events.csv").unlink()
    (folder / "events.csv.zip").write_bytes(zip_of(("events.csv", CSV)))
    (folder / "clicks_test.parquet").write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    paths = DirectorySource(folder, "none").prepare()
    assert paths["events"].name == "events.csv.zip"
    assert paths["clicks_test"].name == "clicks_test.parquet"
    assert paths["documents_meta"].name == "documents_meta.csv"


def test_a_link_counts_as_the_file_that_it_leads_to(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "e.csv"
    (folder / "events.csv").rename(elsewhere)
    (folder / "events.csv").symlink_to(elsewhere)
    assert DirectorySource(folder, "none").prepare()["events"] == folder / "events.csv"


@pytest.mark.parametrize(
    ("page_views", "absent", "taken", "warnings"),
    [
        ("full", ["page_views"], "page_views_sample", 1),
        ("full", ["page_views", "page_views_sample"], None, 2),
        ("sample", ["page_views_sample"], None, 1),
        ("none", ["page_views", "page_views_sample"], None, 0),
    ],
)
def test_missing_page_views_fall_back_with_a_warning(
    page_views: PageViews, absent: list[str], taken: str | None, warnings: int, folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for name in absent:
        (folder / f"{name}.csv").unlink()
    paths = DirectorySource(folder, page_views).prepare()
    assert {name for name in paths if name.startswith("page_views")} == ({taken} if taken else set())
    assert len(caplog.records) == warnings
    assert all(str(folder) in record.getMessage() for record in caplog.records)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: expected a folder .*data\.directory"):
        DirectorySource(tmp_path / "nowhere", "full").prepare()


def test_missing_required_files_are_told(folder: Path) -> None:
    for name in ("events", "documents_topics", "sample_submission"):
        (folder / f"{name}.csv").unlink()
    with pytest.raises(InputError, match=r"events, documents_topics missing; expected each as NAME\.csv"):
        DirectorySource(folder, "full").prepare()


def test_a_file_that_is_not_wanted_is_not_looked_at(folder: Path) -> None:
    (folder / "page_views.csv").write_bytes(b"")
    DirectorySource(folder, "sample").prepare()
    with pytest.raises(InputError, match=r"page_views\.csv: is empty"):
        DirectorySource(folder, "full").prepare()


GOOD = zip_of((f"{NAME}.csv", CSV * 500), compression=zipfile.ZIP_STORED)
DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "empty CSV": (".csv", b"", "is empty"),
    "empty zip file": (".csv.zip", b"", "is empty"),
    "empty Parquet": (".parquet", b"", "is empty"),
    "truncated zip": (".csv.zip", GOOD[:-40], "is truncated or damaged"),
    "half a zip": (".csv.zip", GOOD[: len(GOOD) // 2], "is truncated or damaged"),
    "bytes lost in a zip": (".csv.zip", GOOD[:1000] + GOOD[2000:], "is truncated or damaged"),
    "head of a zip lost": (".csv.zip", bytes(100) + GOOD[100:], r"is not a zip \(it begins with b'\\x00"),
    "a page": (".csv.zip", b"<html>Sign in</html>", r"is not a zip \(it begins with b'<htm'\)"),
    "a CSV called zip": (".csv.zip", CSV, "is not a zip"),
    "zip without members": (".csv.zip", zip_of(), "expected one member, clicks_train.csv; found nothing"),
    "another member": (
        ".csv.zip",
        zip_of(("train.csv", CSV)),
        "expected one member, clicks_train.csv; found train.csv",
    ),
    "another member in a folder": (".csv.zip", zip_of((f"{NAME}/train.csv", CSV)), f"found {NAME}/train.csv"),
    "two members": (".csv.zip", zip_of((f"{NAME}.csv", CSV), ("b.csv", CSV)), f"found {NAME}.csv, b.csv"),
    "empty member": (".csv.zip", zip_of((f"{NAME}.csv", b"")), f"{NAME}.csv in it is empty"),
    "zip called CSV": (".csv", GOOD, f"is a zip, not a CSV; rename it to {NAME}.csv.zip"),
    "CSV called Parquet": (".parquet", CSV, "is no Parquet file"),
    "truncated Parquet": (".parquet", b"PAR1" + bytes(50), "is truncated; a Parquet file begins and ends with PAR1"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_told_with_their_path(case: str, folder: Path) -> None:
    suffix, data, says = DAMAGED[case]
    (folder / f"{NAME}.csv").unlink()
    path = folder / f"{NAME}{suffix}"
    path.write_bytes(data)
    before = state(folder)
    with pytest.raises(InputError, match=says) as caught:
        DirectorySource(folder, "full").prepare()
    assert str(caught.value).startswith(f"{path}: ")
    assert state(folder) == before


def test_a_zip_made_on_a_mac(folder: Path) -> None:
    (folder / f"{NAME}.csv").unlink()
    members = ("data/", b""), (f"data/{NAME}.csv", CSV), (f"__MACOSX/data/._{NAME}.csv", b"x"), ("data/.DS_Store", b"x")
    (folder / f"{NAME}.csv.zip").write_bytes(zip_of(*members))
    assert DirectorySource(folder, "none").prepare()[NAME].name == f"{NAME}.csv.zip"


def test_an_encrypted_zip_is_told(folder: Path) -> None:
    data = bytearray(zip_of((f"{NAME}.csv", CSV)))
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags stand in both headers of a member
        data[data.index(magic) + flags] |= 1
    (folder / f"{NAME}.csv").unlink()
    (folder / f"{NAME}.csv.zip").write_bytes(data)
    with pytest.raises(InputError, match="is encrypted"):
        DirectorySource(folder, "full").prepare()


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Takes the permission to read a file, for root as well."""

    def forbid(path: Path) -> None:
        path.chmod(0)
        plain = Path.open

        def opened(self: Path, *arguments: object, **options: object) -> object:
            if self == path:
                raise PermissionError(13, os.strerror(13), str(self))
            return plain(self, *arguments, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(Path, "open", opened)

    return forbid


def test_an_unreadable_file_is_told(folder: Path, forbidden: Callable[[Path], None]) -> None:
    forbidden(folder / "events.csv")
    with pytest.raises(InputError, match=r"events\.csv: cannot be read: Permission denied; check its permissions"):
        DirectorySource(folder, "none").prepare()
