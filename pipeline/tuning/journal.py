"""The file that keeps a model's studies: written by one process at a time, and never left half a line long."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


class JournalLock:
    """A lock that the kernel gives back when its holder dies; who holds it may take it again.

    Optuna's own is a link beside the journal: a run that is killed while it writes leaves it behind, and where the
    journal's path is relative the next run waits for it forever.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._file, self._depth = journal, -1, 0

    def acquire(self) -> bool:
        """Wait for the lock. What Optuna calls before it writes."""
        if not self._depth:
            self._file = os.open(self._journal, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._repair()
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            os.close(self._file)

    def _repair(self) -> None:
        """Cut off half a line, such as a kill or a loss of power leaves: it would spoil the next one, too."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.truncate(self._file, self._journal.read_bytes().rfind(b"\n") + 1)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def open_study(journal: Path, name: str, lock: JournalLock) -> optuna.Study:
    """The study of that name, to be written under `lock`; a new one if there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    with lock:
        storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
            load_if_exists=True,
        )
