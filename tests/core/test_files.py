"""Files that are either whole or not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.core import files
from pipeline.core.files import atomic_path, read_json, remove, take_back, write_json, write_text


class KilledError(Exception):
    """What ends a write half way."""


def write_half(path: Path, folder: bool) -> None:
    with atomic_path(path) as partial:
        if folder:
            partial.mkdir()
            (partial / "half").write_text("half")
        else:
            partial.write_text("half")
        raise KilledError


def content(path: Path) -> dict[str, str]:
    return {p.relative_to(path).as_posix(): p.read_text() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("folder", [False, True])
def test_failure_leaves_what_was_there(tmp_path: Path, folder: bool) -> None:
    old = tmp_path / "out"
    if folder:
        old.mkdir()
        (old / "whole").write_text("whole")
    else:
        old.write_text("whole")
    before = content(tmp_path)
    with pytest.raises(KilledError):
        write_half(old, folder)
    assert content(tmp_path) == before


@pytest.mark.parametrize("folder", [False, True])
def test_failure_leaves_nothing_where_nothing_was(tmp_path: Path, folder: bool) -> None:
    with pytest.raises(KilledError):
        write_half(tmp_path / "out", folder)
    assert list(tmp_path.iterdir()) == []


def test_nothing_shows_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.txt"
    with atomic_path(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
        assert partial.parent == path.parent, "a rename between file systems would not be atomic"
    assert content(tmp_path) == {"deep/out.txt": "whole"}


def test_a_folder_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "removed_member").write_text("old")
    with atomic_path(out) as partial:
        partial.mkdir()
        (partial / "member").write_text("new")
    assert content(tmp_path) == {"out/member": "new"}


def test_a_kill_while_a_folder_takes_the_place_of_another_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, replace = tmp_path / "out", Path.replace
    out.mkdir()
    (out / "file").write_text("old")

    def killed(self: Path, target: Path) -> Path:
        if target == out:
            raise KilledError
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        patched.setattr(files, "take_back", lambda path: None)  # a killed process does nothing any more
        with pytest.raises(KilledError), atomic_path(out) as partial:
            partial.mkdir()
    assert content(tmp_path) == {".out.old/file": "old"}
    take_back(out)
    assert content(tmp_path) == {"out/file": "old"}
    out.rename(tmp_path / ".out.old")
    with pytest.raises(KilledError):
        write_half(out, folder=True)
    assert content(tmp_path) == {"out/file": "old"}
    shutil.copytree(out, tmp_path / ".out.old")  # killed after the new one was there
    take_back(out)
    assert content(tmp_path) == {"out/file": "old"}


def test_forgetting_to_write_a_folder_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out"):
        pass
    assert content(tmp_path) == {"out/file": "old"}


@pytest.mark.parametrize("folder", [False, True])
def test_what_was_there_may_be_of_the_other_kind(tmp_path: Path, folder: bool) -> None:
    out = tmp_path / "out"
    if folder:
        out.write_text("a file before")
    else:
        out.mkdir()
        (out / "member").write_text("a folder before")
    with atomic_path(out) as partial:
        if folder:
            partial.mkdir()
        else:
            partial.write_text("new")
    assert out.is_dir() == folder
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("leftover", ["file", "folder"])
def test_what_a_killed_run_left_behind_is_cleared(tmp_path: Path, leftover: str) -> None:
    """A killed process clears nothing, so the next one finds its partial path."""
    out = tmp_path / "out"
    with atomic_path(out) as partial:
        left = partial
        partial.write_text("x")
    if leftover == "file":
        left.write_text("half")
    else:
        left.mkdir()
        (left / "half").write_text("half")
    with atomic_path(out) as partial:
        assert not partial.exists()
        partial.write_text("whole")
    assert content(tmp_path) == {"out": "whole"}


def test_forgetting_to_write_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(out):
        pass
    assert content(tmp_path) == {"out": "old"}


def test_remove_follows_no_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    link = tmp_path / "link"
    link.symlink_to(kept)
    remove(link)
    remove(tmp_path / "not there")
    assert content(tmp_path) == {"kept/file": "x"}


def test_equal_values_are_equal_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    write_json(one, {"b": 1, "a": {"d": "é", "c": [1.5, None]}})
    write_json(two, {"a": {"c": [1.5, None], "d": "é"}, "b": 1})
    assert one.read_bytes() == two.read_bytes()
    assert one.read_text(encoding="utf-8").endswith("}\n")
    assert "é" in one.read_text(encoding="utf-8")
    assert read_json(one) == {"a": {"c": [1.5, None], "d": "é"}, "b": 1}


def test_json_without_nan_and_text_with_failure(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_text(path, "old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"score": float("nan")})
    assert content(tmp_path) == {"value.json": "old"}
