"""Processes that share a study, on one machine or on several: who of them lives, and those that a worker starts."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.progress import log
from pipeline.tuning.journal import JournalLock


@contextmanager
def enrolled(journal: Path, lock: JournalLock) -> Iterator[str]:
    """The name of this worker, which is alive until the context ends: it holds a lock on a file of its own.

    The kernel gives the lock back when a process dies, however it dies; that is how others learn of it.
    """
    name = uuid.uuid4().hex[:12]
    with lock:
        file = os.open(_file(journal, name), os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield name
    finally:
        with lock:
            _file(journal, name).unlink(missing_ok=True)
            os.close(file)


def is_alive(journal: Path, name: str) -> bool:
    """Whether the worker of that name is; to be called under the journal's lock. Removes what a dead one has left."""
    path = _file(journal, name)
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    path.unlink(missing_ok=True)
    return False


def _file(journal: Path, name: str) -> Path:
    return journal.with_name(f".{journal.name}.{name}")


@contextmanager
def helpers(count: int, work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """So many processes that do work(*arguments) meanwhile; the context ends with the last of them.

    One that fails or is killed is no harm: whoever is left tries its set again.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=arguments, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
        for process in processes:
            process.join()
            if process.exitcode:
                log.warning("tuning: a worker ended with status %d; its set was tried again", process.exitcode)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def is_orphaned() -> bool:
    """Whether this process is a helper whose starter has died."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
