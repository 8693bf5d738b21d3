"""Which parameter set wins: the best one, if it is ahead of the defaults by more than luck.

Both are ranked on the same displays, so what counts is the difference in each of them: its standard error is a good
deal smaller than that of either MAP@12. Of n sets that are no better than the defaults the best one looks better all
the same, by the largest of n normal numbers of standard errors. A winner must be ahead by more than that is on average.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from pipeline.core.progress import log
from pipeline.metrics import FUTURE_WEIGHT, PRESENT_WEIGHT, reciprocal_rank
from pipeline.schemas.encoded import EncodedPart

Gains = NDArray[np.float64]


def gains(score: NDArray[np.float32], target: EncodedPart) -> Gains:
    """1 / rank of each display's click (D,), 0 without one; their weighted mean is MAP@12."""
    ids = target.array("display_id"), target.array("ad_id")
    return reciprocal_rank(score, target.array("clicked"), target.offsets, *ids)


def packed(gain: Gains) -> str:
    """Gains (D,) as a text for a trial's attributes: half a byte a display."""
    ranks = np.divide(1, gain, out=np.zeros_like(gain), where=gain > 0)
    return base64.b85encode(zlib.compress(np.rint(ranks).astype(np.uint8).tobytes(), 9)).decode()


def unpacked(text: str) -> Gains:
    """What `packed` was given."""
    ranks = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8).astype(np.float64)
    return np.divide(1, ranks, out=np.zeros_like(ranks), where=ranks > 0)


def ahead(gain: Gains, base: Gains, future: NDArray[np.bool_]) -> tuple[float, float]:
    """By how much MAP@12 of `gain` (D,) is above that of `base`, and the standard error of that difference."""
    difference = gain - base
    parts = [difference[part] for part in (~future, future) if part.any()]
    weights = (PRESENT_WEIGHT, FUTURE_WEIGHT) if len(parts) == 2 else (1.0,)
    mean = sum(w * float(part.mean()) for w, part in zip(weights, parts, strict=True))
    variance = sum(w**2 * float(part.var()) / max(1, len(part) - 1) for w, part in zip(weights, parts, strict=True))
    return mean, math.sqrt(variance)


def luck(tried: int) -> float:
    """Standard errors by which the best of so many sets is ahead on average if none is any better; at least one.

    Blom 1958, "Statistical estimates and transformed beta-variables": the mean of the largest of n normal numbers.
    """
    n = max(1, tried)
    return max(1.0, NormalDist().inv_cdf((n - 0.375) / (n + 0.25)))


def winner(trials: Sequence[FrozenTrial], future: NDArray[np.bool_]) -> dict[str, Any] | None:
    """The parameters of the set that replaces the defaults, as Optuna holds them; None if the defaults stay.

    future: of the displays on which they were measured (D,).
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    tried = sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials) - 1
    base = next(t for t in complete if t.user_attrs.get("defaults"))
    best = min(complete, key=lambda t: (-t.value, t.number))
    if best.value <= base.value:
        log.info("tuning: none of %d sets is better than the defaults, MAP@12 %.5f", tried, base.value)
        return None
    if "ranks" in base.user_attrs:  # else they diverge
        gain, error = ahead(unpacked(best.user_attrs["ranks"]), unpacked(base.user_attrs["ranks"]), future)
        told = f"the best of {tried} sets is ahead of the defaults by {gain:.5f} MAP@12, standard error {error:.5f}"
        if gain <= luck(tried) * error:
            log.info("tuning: %s: that may be luck, the defaults stay", told)
            return None
        log.info("tuning: %s", told)
    return dict(best.params)
