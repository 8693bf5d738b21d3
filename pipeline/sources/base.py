"""What a source of raw files is: something that can say where each file of the competition lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.core.errors import InputError
from pipeline.schemas.raw import RAW_FILES

PageViews = Literal["full", "sample", "none"]
#: The forms in which a raw file may lie in a folder, in the order of preference.
SUFFIXES = (".parquet", ".csv", ".csv.zip")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The section `data` of params.yaml.

    source: where the raw files come from.
    directory: the folder that `source: directory` reads in place.
    page_views: which file of page views is used; `full` falls back to the sample, with a warning.
    """

    source: Literal["simulated", "kaggle", "directory"]
    directory: str
    page_views: PageViews


class Source(Protocol):
    """One way to come by the raw files."""

    def prepare(self) -> dict[str, Path]:
        """Make the files available (generate, download or find them); resumable; name -> path of each file there is.

        Raises InputError (or another UserError) with what to do if a required file cannot be had.
        """
        ...


def wanted(page_views: PageViews) -> list[str]:
    """The names of the raw files that a run with this choice of page views reads."""
    skipped = {"full": {"page_views_sample"}, "sample": {"page_views"}, "none": {"page_views", "page_views_sample"}}
    return [name for name in RAW_FILES if name not in skipped[page_views]]


def find_files(folder: Path) -> dict[str, Path]:
    """The raw files in `folder`: NAME.parquet, NAME.csv or NAME.csv.zip; InputError if a required one is missing."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with the competition's files, found none; set data.directory")
    found = {}
    for name in RAW_FILES:
        paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()]
        if paths:
            found[name] = paths[0]
    missing = [name for name, file in RAW_FILES.items() if file.required and name not in found]
    if missing:
        raise InputError(
            f"{folder}: {', '.join(missing)} missing; expected each as NAME.csv, NAME.csv.zip or NAME.parquet; "
            f"found: {', '.join(sorted(p.name for p in found.values())) or 'none of the files'}"
        )
    return found
