"""How fits go through displays that lie on a disk: in which order, and how what comes next is read meanwhile.

Blocks of neighbouring displays are read (a disk likes that), several random ones are mixed in a buffer, and then the
displays of the buffer are shuffled. The order depends on the seed alone, so a killed run can go on within an epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

#: Displays that are read in one go.
BLOCK = 4096
BUFFER_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Buffer:
    """What is in memory together: ranges of displays, from the first to the one after the last of each."""

    ranges: list[tuple[int, int]]
    seed: int = 0
    skipped: int = 0

    @property
    def displays(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    def steps(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Which of its displays, counted from 0, come next: `size` of them at a time, the last time perhaps fewer."""
        order = np.random.default_rng(self.seed).permutation(self.displays)
        for start in range(self.skipped * size, len(order), size):
            yield order[start : start + size]


def steps(displays: int, size: int) -> int:
    """How many steps of so many displays an epoch of all has: the last one of each buffer may be short."""
    blocks = np.arange(-(-displays // BLOCK))
    return sum(-(-Buffer(ranges).displays // size) for ranges in _buffers(blocks, displays))


def buffers(displays: int, size: int, seed: tuple[int, ...], skip: int = 0) -> list[Buffer]:
    """What an epoch reads, in the order that a seed decides, without its first `skip` steps of so many displays."""
    random = np.random.default_rng(seed)
    blocks = random.permutation(-(-displays // BLOCK))
    # the one short block goes last, so that the number of steps does not depend on the order
    blocks = np.append(blocks[blocks != len(blocks) - 1], np.arange(len(blocks))[-1:])
    found: list[Buffer] = []
    for ranges in _buffers(blocks, displays):
        buffer = Buffer(ranges, int(random.integers(1 << 62)), skip)
        held = -(-buffer.displays // size)
        if skip < held:
            found.append(buffer)
        skip = max(0, skip - held)
    return found


def _buffers(blocks: NDArray[np.int64], displays: int) -> list[list[tuple[int, int]]]:
    ranges = [(block * BLOCK, min((block + 1) * BLOCK, displays)) for block in blocks.tolist()]
    return [ranges[i : i + BUFFER_BLOCKS] for i in range(0, len(ranges), BUFFER_BLOCKS)]


def ahead(calls: Iterable[Callable[[], T]], depth: int) -> Iterator[T]:
    """The results of some calls in their order, made in a background thread, up to `depth` of them too early."""
    with ThreadPoolExecutor(1) as background:
        pending: deque[Future[T]] = deque()
        for call in calls:
            pending.append(background.submit(call))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
