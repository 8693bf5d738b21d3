"""Which parameter set wins: the likeliest one, if it is likelier than the defaults by more than luck.

All rank the same displays, so what counts is the difference in each of them: its standard error is a good deal smaller
than that of either. That of MAP@12 is still larger than what a better set gains, but the chance that a set gives to the
click tells the two apart on a few thousand displays. Of n sets that are no better than the defaults the best one looks
better all the same, by the largest of n normal numbers of standard errors. A winner must be ahead by half as
much again as that is on average, since a fit on other rows has luck of its own, and no more than a standard error
behind in MAP@12. What is best on few displays need not be so on many, so it must then be ahead on a larger sample too
(search.py).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from pipeline.core.progress import log
from pipeline.metrics import Floats, Judged, standard_error, weighted_mean

#: The attribute of a trial that holds what its set is worth in each display, packed, at the moment of highest worth
#: (metrics.Quality). A study's name tells it: trials that keep something else are no part of the same study.
JUDGED = "judged at the highest worth"


def packed(found: Judged) -> str:
    """As a text for a trial's attributes: less than four bytes a display."""
    ranks = np.divide(1, found.gain, out=np.zeros_like(found.gain), where=found.gain > 0)
    parts = np.rint(ranks).astype(np.uint8), found.loss.astype(np.float16)
    return " ".join(base64.b85encode(zlib.compress(part.tobytes(), 9)).decode() for part in parts)


def unpacked(text: str) -> Judged:
    """What `packed` was given, losses to three digits."""
    ranks, losses = (zlib.decompress(base64.b85decode(part)) for part in text.split())
    rank = np.frombuffer(ranks, np.uint8).astype(np.float64)
    gain = np.divide(1, rank, out=np.zeros_like(rank), where=rank > 0)
    return Judged(gain, np.frombuffer(losses, np.float16).astype(np.float64))


def ahead(value: Floats, base: Floats, future: NDArray[np.bool_]) -> tuple[float, float]:
    """By how much the weighted mean of `value` (D,) is above that of `base`, and the standard error of that."""
    return weighted_mean(value - base, future), standard_error(value - base, future)


def luck(tried: int) -> float:
    """Standard errors by which the best of so many sets is ahead on average if none is any better; at least one.

    Blom 1958, "Statistical estimates and transformed beta-variables": the mean of the largest of n normal numbers.
    """
    n = max(1, tried)
    return max(1.0, NormalDist().inv_cdf((n - 0.375) / (n + 0.25)))


def likeliest(trials: Sequence[FrozenTrial], future: NDArray[np.bool_]) -> FrozenTrial | None:
    """The trial of the least loss on the displays whose `future` (D,) is given, of equals the first; None if none came
    to an end without diverging."""
    whole = [t for t in trials if t.state == TrialState.COMPLETE and JUDGED in t.user_attrs]
    return min(whole, key=lambda t: weighted_mean(unpacked(t.user_attrs[JUDGED]).loss, future), default=None)


def is_better(own: Judged, base: Judged, future: NDArray[np.bool_], tried: int) -> bool:
    """Whether the best of `tried` sets is likelier than `base` on the same displays by more than luck."""
    gain, error = ahead(base.loss, own.loss, future)
    rise, rise_error = ahead(own.gain, base.gain, future)
    found = gain > 1.5 * luck(tried) * error and rise >= -rise_error
    log.info(
        "tuning: the likeliest of %d sets is ahead of the defaults by %.5f nats a display, standard error %.5f; by "
        "%.5f MAP@12, standard error %.5f%s",
        *(tried, gain, error, rise, rise_error, "" if found else ": that may be luck, the defaults stay"),
    )
    return found


def winner(trials: Sequence[FrozenTrial], future: NDArray[np.bool_]) -> FrozenTrial | None:
    """The trial of the set that replaces the defaults; None if the defaults stay.

    future: of the displays on which they were measured (D,).
    """
    tried = sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials) - 1
    best = likeliest(trials, future)
    if best is None:
        log.info("tuning: all of %d sets diverge, as the defaults do", tried)
        return None
    if best.user_attrs.get("defaults"):
        log.info("tuning: none of %d sets is likelier than the defaults, MAP@12 %.5f", tried, best.value)
        return None
    defaults = likeliest([t for t in trials if t.user_attrs.get("defaults")], future)
    if defaults is not None:
        own, base = (unpacked(t.user_attrs[JUDGED]) for t in (best, defaults))
        if not is_better(own, base, future, tried):
            return None
    return best
