"""Files that are either whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (file or folder), which takes its place on success and goes on failure.

    A temporary path that an earlier, killed run left behind is removed first. A folder cannot be renamed over another,
    so the old one is set aside for a moment; who reads it after a kill calls `take_back` first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    take_back(path)
    try:
        yield partial
        if path.exists() and (path.is_dir() or partial.is_dir()):
            path.replace(_aside(path))
        partial.replace(path)
    finally:
        take_back(path)
        remove(partial)


def take_back(path: Path) -> None:
    """Put back what stood at `path` if a kill has come between setting it aside and renaming the new one; remove it if
    the new one is there."""
    old = _aside(path)
    if path.exists():
        remove(old)
    elif old.exists():
        old.replace(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; nothing happens if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def zip_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files in a zip, in whatever folder, but for those that only the system that zipped them needs: `__MACOSX/` of
    macOS, and names that begin with a dot."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    return [m for m in members if not any(part == "__MACOSX" or part[0] == "." for part in Path(m.filename).parts)]


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write with sorted keys and a final newline, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))
