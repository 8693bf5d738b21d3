"""The border between a model and what fits it: how to fit, and what a fit has to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.runtime import RuntimeConfig


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How to fit, as opposed to what.

    length: for how many epochs or rounds to train; None to stop early, by MAP@12 and loss of the (labelled) target.
    left_out: (D,) int8, for several fits at once, of factorization models: k says that the k-th must not learn from the
    display, -1 that all are to. There are as many as the largest says, and `predict` scores each display of history by
    the one that has left it out. None: one fit to all displays.
    checkpoint: a folder for what a killed run needs to go on; None for none. It is removed when the fit is done.
    rank: which of `runtime.machines` this process is, where they fit a model together; None: it fits alone.
    report: called with (step, MAP@12) at every evaluation; may raise to end the fit.
    """

    runtime: RuntimeConfig
    length: float | None = None
    left_out: NDArray[np.int8] | None = None
    checkpoint: Path | None = None
    rank: int | None = None
    report: Callable[[int, float], None] = field(default=lambda step, score: None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """What a fit has to tell.

    length: epochs or rounds of the model that was kept; a refit on other data trains as long.
    curve: one entry an evaluation: step, loss (of training, mean since the last), and of the target map12 and
    target_loss (nats a display).
    """

    length: float
    curve: list[dict[str, float]]

    @property
    def map12(self) -> float:
        """MAP@12 of the target by the model that was kept, if it was measured."""
        return next(point["map12"] for point in self.curve if point["step"] == self.length)
