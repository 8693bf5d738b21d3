"""The journal of a study: one writer at a time, and whole lines alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from pipeline.tuning.journal import JournalLock, open_study


def is_locked(path: Path) -> bool:
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def test_who_holds_the_lock_may_take_it_again(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    lock = JournalLock(journal)
    with lock:
        with lock:
            assert is_locked(journal)
        assert is_locked(journal)
    assert not is_locked(journal)


@pytest.mark.parametrize("text", [b"", b"whole\n", b"whole\nhal", b"hal"])
def test_half_a_line_is_cut_off(tmp_path: Path, text: bytes) -> None:
    journal = tmp_path / "journal"
    journal.write_bytes(text)
    with JournalLock(journal):
        pass
    assert journal.read_bytes() == text[: text.rfind(b"\n") + 1]


def test_half_a_line_of_another_writer_spoils_nothing(tmp_path: Path) -> None:
    """It was killed while it wrote, and this one goes on."""
    journal = tmp_path / "journal"
    study = open_study(journal, "study", JournalLock(journal))
    study.tell(study.ask(), 1.0)
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_i')
    study.tell(study.ask(), 2.0)
    assert [t.value for t in study.trials] == [1.0, 2.0]
    assert [t.value for t in open_study(journal, "study", JournalLock(journal)).trials] == [1.0, 2.0]
