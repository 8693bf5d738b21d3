"""MAP@12, AUC and log loss of scores, whole and by slice, without a Python loop over rows.

Scores are logits of click probabilities, in the order of the impressions; a display is a contiguous range of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import UserError

#: The share of present and future displays in the competition's test set.
PRESENT_WEIGHT, FUTURE_WEIGHT = 0.4767, 0.5233
CUTOFF = 12
_CHUNK_DISPLAYS = 1 << 20
_STEEPEST, _HALVINGS = 10.0, 20  # the largest scale of scores, and how often its range is halved
_SCALED_DISPLAYS = 1 << 17  # the most by which a scale is found

Floats = NDArray[np.floating[Any]]
Values = NDArray[np.float64]


class DivergedError(UserError):
    """Scores are not finite: the parameters of the model that gave them do not let it learn."""


def tie_hash(display_id: NDArray[Any], ad_id: NDArray[Any]) -> NDArray[np.uint64]:
    """A pseudo-random order of the ads within each display (splitmix64 of both ids), to break ties.

    File order would not do: in the real files the click slightly favours low ad ids.
    """
    with np.errstate(over="ignore"):
        x = (display_id.astype(np.uint64) << np.uint64(32)) | ad_id.astype(np.uint64)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def reciprocal_rank(
    score: Floats,
    clicked: NDArray[Any],
    offsets: NDArray[np.int64],
    display_id: NDArray[Any],
    ad_id: NDArray[Any],
) -> NDArray[np.float64]:
    """1 / rank of each display's click (D,), 0 beyond rank 12 or without a click; its mean is MAP@12.

    score, clicked, ad_id: (N,). offsets: (D + 1,). display_id: (D,). Works through a million displays at a time.
    Raises DivergedError if a score is not finite and ValueError if a display has two clicks.
    """
    result = np.zeros(len(offsets) - 1)
    for start in range(0, len(result), _CHUNK_DISPLAYS):
        stop = min(start + _CHUNK_DISPLAYS, len(result))
        rows = slice(offsets[start], offsets[stop])
        result[start:stop] = _reciprocal_rank(
            np.asarray(score[rows]),
            np.asarray(clicked[rows]) != 0,
            offsets[start : stop + 1] - offsets[start],
            np.asarray(display_id[start:stop]),
            np.asarray(ad_id[rows]),
        )
    return result


def _reciprocal_rank(
    score: Floats, clicked: NDArray[np.bool_], offsets: NDArray[np.int64], display_id: NDArray[Any], ad_id: NDArray[Any]
) -> NDArray[np.float64]:
    if not np.isfinite(score).all():
        raise DivergedError("scores must be finite; the model has diverged, try a smaller learning rate")
    lengths = np.diff(offsets)
    display = np.repeat(np.arange(len(lengths)), lengths)
    clicks = np.flatnonzero(clicked)
    if (np.diff(display[clicks]) == 0).any():
        raise ValueError("a display has more than one click")
    # the click's row of each display; a display without one gets any row and is set to 0 at the end
    click_of = np.zeros(len(lengths), dtype=np.int64)
    click_of[display[clicks]] = clicks
    at = click_of[display]
    ahead = score > score[at]
    tied = np.flatnonzero((score == score[at]) & ~clicked)
    tie = tie_hash(display_id[display[tied]], ad_id[tied])
    ahead[tied] = tie < tie_hash(display_id[display[tied]], ad_id[at[tied]])
    rank = 1 + np.bincount(display[ahead], minlength=len(lengths))
    has_click = np.zeros(len(lengths), dtype=bool)
    has_click[display[clicks]] = True
    return np.where(has_click & (rank <= CUTOFF), 1.0 / rank, 0.0)


def auc(score: Floats, clicked: NDArray[Any]) -> float:
    """Area under the ROC curve; ties count half. NaN if there is only one class."""
    bits = (np.asarray(score, dtype=np.float32) + np.float32(0)).view(np.uint32)  # adding 0 makes -0 equal 0
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)  # an order-keeping map
    # sorting values is ten times faster than sorting indices, so the label rides along as the lowest bit
    both = np.sort((ordered << np.uint64(1)) | (np.asarray(clicked) != 0))
    value, positive = both >> np.uint64(1), (both & np.uint64(1)).astype(bool)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    starts = np.flatnonzero(np.concatenate([[True], value[1:] != value[:-1]]))
    ends = np.append(starts[1:], len(value))
    middle = (starts + ends + 1) / 2  # the mean rank, from 1, of each run of ties
    clicks = np.add.reduceat(positive.astype(np.int64), starts)
    return float((middle @ clicks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def log_loss(score: Floats, clicked: NDArray[Any]) -> float:
    """Mean of -log p(label) in nats, where the score is the logit of a click."""
    total = 0.0
    for start in range(0, len(score), 1 << 22):
        x = np.asarray(score[start : start + (1 << 22)], dtype=np.float64)
        sign = np.where(np.asarray(clicked[start : start + (1 << 22)]) != 0, -1.0, 1.0)
        total += float(np.logaddexp(0.0, sign * x).sum())
    return total / max(1, len(score))


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """What scores are measured against: the target's labels and slices. Shapes as in `reciprocal_rank`."""

    clicked: NDArray[Any]
    offsets: NDArray[np.int64]
    display_id: NDArray[Any]
    ad_id: NDArray[Any]
    slices: dict[str, NDArray[np.bool_]]  # name -> (D,)


@dataclass(frozen=True, slots=True)
class Judged:
    """What scores are worth in each display. gain: (D,) of MAP@12. loss: (D,) -log of the click's chance.

    Gains differ by luck so much that hardly anything but losses tells two good rankings apart.
    """

    gain: Floats
    loss: Floats

    @classmethod
    def of(cls, score: Floats, labels: Labelled) -> Judged:
        gain = reciprocal_rank(score, labels.clicked, labels.offsets, labels.display_id, labels.ad_id)
        return cls(gain, _losses(score, labels, 1.0))

    @classmethod
    def scaled(cls, score: Floats, labels: Labelled) -> Judged:
        """Of scores that are scaled to their own greatest likelihood: what is wrong with their scale alone is no fault
        of a model, since a blend puts it right."""
        gain = reciprocal_rank(score, labels.clicked, labels.offsets, labels.display_id, labels.ad_id)
        return cls(gain, _losses(score, labels, _scale(score, labels)))

    @classmethod
    def joined(cls, parts: list[Judged]) -> Judged:
        return cls(np.concatenate([part.gain for part in parts]), np.concatenate([part.loss for part in parts]))


def softmax(score: Values, offsets: NDArray[np.int64], clicked: NDArray[Any]) -> tuple[Values, Values]:
    """-log of each click's chance (D,), and the chances of all ads (N,), if those of a display add up to 1."""
    starts, lengths = offsets[:-1], np.diff(offsets)
    top = np.maximum.reduceat(score, starts)
    e = np.exp(score - np.repeat(top, lengths))
    total = np.add.reduceat(e, starts)
    of_click = np.add.reduceat(np.where(np.asarray(clicked) != 0, score, 0.0), starts)
    return np.log(total) + top - of_click, e / np.repeat(total, lengths)


def _losses(score: Floats, labels: Labelled, scale: float) -> Values:
    """-log of each click's chance (D,) by scores (N,) times `scale`; a million displays at a time."""
    result = np.empty(len(labels.offsets) - 1)
    for start in range(0, len(result), _CHUNK_DISPLAYS):
        offsets = labels.offsets[start : start + _CHUNK_DISPLAYS + 1]
        rows = slice(offsets[0], offsets[-1])
        exact = scale * score[rows].astype(np.float64)
        result[start : start + _CHUNK_DISPLAYS] = softmax(exact, offsets - offsets[0], labels.clicked[rows])[0]
    return result


def _scale(score: Floats, labels: Labelled) -> float:
    """The factor from 0 to 10 with which scores (N,) give the clicks the greatest chance; of many displays by some."""
    lengths = np.diff(labels.offsets)
    some = np.arange(len(lengths)) % -(-len(lengths) // _SCALED_DISPLAYS) == 0
    rows = np.repeat(some, lengths)
    exact, clicked = score[rows].astype(np.float64), labels.clicked[rows] != 0
    offsets, of_clicks = np.append(0, np.cumsum(lengths[some])), exact[clicked].sum()
    low, high = 0.0, _STEEPEST
    for _ in range(_HALVINGS):  # the loss is convex in the scale, so its slope changes sign but once
        middle = (low + high) / 2
        rises = softmax(middle * exact, offsets, clicked)[1] @ exact > of_clicks
        low, high = (low, middle) if rises else (middle, high)
    return high


def weighted(present: float | None, future: float | None) -> float:
    """The mean of present and future as the leaderboard weighs them; of one alone if the other has no displays."""
    if present is None or future is None:
        value = present if future is None else future
        return float("nan") if value is None else value
    return PRESENT_WEIGHT * present + FUTURE_WEIGHT * future


def map12(score: Floats, labels: Labelled) -> float:
    """MAP@12, present and future weighted as on the leaderboard."""
    gain = reciprocal_rank(score, labels.clicked, labels.offsets, labels.display_id, labels.ad_id)
    return weighted_mean(gain, labels.slices["future"])


@dataclass(frozen=True, slots=True)
class Quality:
    """What scores are worth, present and future weighted as on the leaderboard: MAP@12, and the loss at their best
    scale, in nats a display."""

    map12: float
    loss: float

    @property
    def worth(self) -> float:
        """By which the best moment of a fit is chosen. MAP@12 alone would choose a lucky one: from one moment to the
        next it moves by luck as much as by what is learned, and the loss, which falls as it rises, by much less."""
        return self.map12 - self.loss

    @property
    def shown(self) -> dict[str, float]:
        """For a curve."""
        return {"map12": self.map12, "target_loss": self.loss}


def quality(score: Floats, labels: Labelled) -> Quality:
    """MAP@12 and loss of scores (N,); raises DivergedError if one is not finite."""
    found, future = Judged.scaled(score, labels), labels.slices["future"]
    return Quality(weighted_mean(found.gain, future), weighted_mean(found.loss, future))


def weighted_mean(gain: Floats, future: NDArray[np.bool_]) -> float:
    """Mean of a value by display (D,), present and future weighted as on the leaderboard."""
    return weighted(*(float(gain[part].mean(dtype=np.float64)) if part.any() else None for part in (~future, future)))


def standard_error(value: Floats, future: NDArray[np.bool_]) -> float:
    """Of `weighted_mean`: present and future are two samples, which count by their shares, whatever their sizes."""
    parts = [value[part] for part in (~future, future) if part.any()]
    shares = (PRESENT_WEIGHT, FUTURE_WEIGHT) if len(parts) == 2 else (1.0,)
    variances = [part.var(dtype=np.float64) / len(part) for part in parts]
    return float(np.sqrt(sum(share**2 * variance for share, variance in zip(shares, variances, strict=True))))


def evaluate(score: Floats, labels: Labelled) -> list[dict[str, Any]]:
    """One row a slice: weighted (the leaderboard's mix), present, future, and each further slice that has displays.

    Keys: slice, displays, rows, map12, auc, logloss.
    """
    gain = reciprocal_rank(score, labels.clicked, labels.offsets, labels.display_id, labels.ad_id)
    future = labels.slices["future"]
    slices = {"present": ~future, "future": future}
    slices |= {name: mask for name, mask in labels.slices.items() if name != "future"}
    lengths = np.diff(labels.offsets)
    rows = {name: _slice(score, labels, gain, mask, lengths) for name, mask in slices.items() if mask.any()}
    mixed = {
        key: weighted(*(rows[part][key] if part in rows else None for part in ("present", "future")))
        for key in ("map12", "auc", "logloss")
    }
    return [
        {"slice": "weighted", "displays": len(gain), "rows": len(score), **mixed},
        *({"slice": name, **row} for name, row in rows.items()),
    ]


def _slice(
    score: Floats, labels: Labelled, gain: Floats, mask: NDArray[np.bool_], lengths: NDArray[np.int64]
) -> dict[str, Any]:
    chosen = np.repeat(mask, lengths)
    s, y = np.asarray(score)[chosen], np.asarray(labels.clicked)[chosen]
    return {
        "displays": int(mask.sum()),
        "rows": len(s),
        "map12": float(gain[mask].mean()),
        "auc": auc(s, y),
        "logloss": log_loss(s, y),
    }
