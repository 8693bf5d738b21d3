"""How far a fit has come, what was measured on its way, and when it stops: what its checkpoint knows beside weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Stopping:
    """Early stopping by what is measured on the way.

    best: the highest worth. best_length: the length at which it was measured. stale: measurements since then.
    """

    best: float | None = None
    best_length: float = 0.0
    stale: int = 0
    done: bool = False
    curve: list[dict[str, float]] = field(default_factory=list)

    def measured(self, length: float, worth: float, patience: int, **shown: float) -> bool:
        """Note what was measured; whether it is the best so far. It is done after `patience` in a row that are not.

        shown: of that moment, by the curve.
        """
        self.curve.append({"step": length, **shown})
        if self.best is None or worth > self.best:
            self.best, self.best_length, self.stale = worth, length, 0
            return True
        self.stale += 1
        self.done = self.stale >= patience
        return False


@dataclass(slots=True)
class Progress(Stopping):
    """Of a fit that goes through the data again and again, in `steps` steps an epoch.

    step: within the epoch. loss: summed over `losses` of whatever, since the last measurement.
    """

    steps: int = 1
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    losses: int = 0

    @property
    def taken(self) -> int:
        """All steps so far."""
        return self.epoch * self.steps + self.step

    @property
    def length(self) -> float:
        """Epochs so far."""
        return self.epoch + self.step / self.steps

    def each(self, total: int, epoch: Callable[[int, int], Iterator[T]]) -> Iterator[T]:
        """What each step up to `total` is about, unless it is done before; the caller notes each step by `stepped`.

        epoch: the steps of an epoch, of which so many are skipped.
        """
        while not self.done and self.taken < total:
            for item in epoch(self.epoch, self.step):
                yield item
                if self.done or self.taken >= total:
                    break
            if self.step >= self.steps:
                self.epoch, self.step = self.epoch + 1, 0

    def stepped(self, loss: float, losses: int = 1) -> None:
        """Note a step and its loss, the sum of so many."""
        self.loss += loss
        self.losses += losses
        self.step += 1

    def is_time(self, parts: int) -> bool:
        """After each of some even parts of an epoch."""
        return (self.step * parts) // self.steps > ((self.step - 1) * parts) // self.steps

    def evaluated(self, worth: float, patience: int, **shown: float) -> bool:
        """As `measured`, with the mean loss since the last time."""
        loss = self.loss / max(1, self.losses)
        self.loss, self.losses = 0.0, 0
        return self.measured(self.length, worth, patience, loss=loss, **shown)
