"""Plain threads for compiled loops, and for torch on one thread each.

torch's own threads meet after each operation; here each thread has a piece of the batch and goes all the way with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import torch

T = TypeVar("T")
A = TypeVar("A", bound=tuple[Any, ...])


class Threads:
    """`count` threads; use it as a context manager. torch itself runs on one thread as long as it is open."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(count)

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The results of some calls, in their order."""
        if self.count == 1 or len(calls) == 1:
            return [call() for call in calls]
        return [future.result() for future in [self.pool.submit(call) for call in calls]]

    def each(self, function: Callable[..., None], items: Iterable[A]) -> Iterator[A]:
        """Call the function with each item's elements; yields the items, in order, when they are done."""
        pending: deque[tuple[A, Future[None]]] = deque()
        for item in items:
            pending.append((item, self.pool.submit(function, *item)))
            if len(pending) > self.count:
                done, future = pending.popleft()
                future.result()
                yield done
        for done, future in pending:
            future.result()
            yield done

    def __enter__(self) -> Threads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown()
        torch.set_num_threads(self._before)
