"""A few scores and an ad's click rate into the log-odds of the click: McFadden 1974, "Conditional logit analysis of
qualitative choice behavior".

A display d is a choice among its ads, and one of them is clicked:

    p(a | d) = exp(x_a) / sum_{b in d} exp(x_b),    x_a = w_0 r_a + sum_k w_k z_ak

r_a: the logit of the ad's smoothed click rate; z: scores, standardised, 0 where unknown. The weights, a handful, have
the highest log-likelihood less a ridge; it is concave, so Newton's method finds them in a few steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import check
from pipeline.core.files import read_json, write_json
from pipeline.core.progress import log
from pipeline.metrics import quality
from pipeline.schemas.encoded import Encoded, EncodedPart, Field
from pipeline.schemas.fitting import FitOptions, Fitted
from pipeline.schemas.predictions import labels_of, within_display_logits

_CHUNK_DISPLAYS = 1 << 18
_FOLDS = 5
_STEPS = 15

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceConfig:
    """scores: encoded numeric fields; none for all numbers that the model's own feature group gives for an impression.
    strength: shows at the mean click rate that are added to every ad. ridge: of the squared weights.
    displays: on how many of history's displays, evenly spread, the weights are fitted at most."""

    scores: tuple[str, ...] = ()
    strength: float = 12.0
    ridge: float = 1.0
    displays: int = 1_000_000

    def __post_init__(self) -> None:
        for name in ("strength", "ridge", "displays"):
            check(getattr(self, name) > 0, f"{name}: must be above 0, found {getattr(self, name)}")


class ChoiceModel:
    """A model (models.base.Model) that reads the scores of one feature group."""

    def __init__(self, group: str, config: ChoiceConfig) -> None:
        self.group, self.config = group, config
        self.fields: list[Field] = []
        self.weights = np.zeros(0)
        self.rates = np.zeros((_FOLDS + 1, 1))  # see _click_rates

    def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
        """Count the clicks of every ad, in all and in the other folds of displays; then weigh."""
        self.fields = self._chosen(encoded)
        history = encoded.part("history")
        self.rates = _click_rates(history, self.config.strength)
        self.weights = np.zeros(1 + len(self.fields))
        self.weights[0] = 1.0
        every = max(1, -(-history.displays // self.config.displays))
        for _ in range(_STEPS):
            step = self._newton_step(history, every)
            self.weights += step
            if np.abs(step).max() < 1e-6:
                break
        names = ["click rate", *(field.name for field in self.fields)]
        log.info("%s: %s", self.group, ", ".join(f"{n} {w:+.3f}" for n, w in zip(names, self.weights, strict=True)))
        return Fitted(length=1.0, curve=[] if options.length is not None else self._measured(encoded, options))

    def _measured(self, encoded: Encoded, options: FitOptions) -> list[dict[str, float]]:
        """The one point of its curve: there are no epochs to stop after."""
        target = encoded.part("target")
        found = quality(self.predict(target), labels_of(target))
        options.report(1, found.map12)
        return [{"step": 1.0, **found.shown}]

    def predict(self, part: EncodedPart) -> NDArray[np.float32]:
        """The logit of the click within its display, (N,)."""
        if not len(self.weights):
            raise ValueError("fit or load the model before predicting")
        found = [self._inputs(part, displays, fold=False) @ self.weights for displays in _pieces(part, 1)]
        return within_display_logits(np.concatenate(found), part.offsets)

    def save(self, folder: Path) -> None:
        """Write weights, fields and click rates."""
        np.save(folder / "rates.npy", self.rates[-1])
        fields = [{name: getattr(f, name) for name in Field.__dataclass_fields__} for f in self.fields]
        write_json(folder / "weights.json", {"weights": self.weights.tolist(), "fields": fields})

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; folds matter to a fit alone."""
        contents = read_json(folder / "weights.json")
        self.weights, self.fields = np.array(contents["weights"]), [Field(**values) for values in contents["fields"]]
        self.rates = np.load(folder / "rates.npy")[None]

    def _chosen(self, encoded: Encoded) -> list[Field]:
        if self.config.scores:
            return encoded.select((), self.config.scores)
        found = [f for f in encoded.fields.values() if f.group == self.group and f.kind == "numeric"]
        found = [f for f in found if f.per == "impression"]
        if not found:
            log.warning("%s: the group has no numbers that are encoded; click rates alone are left", self.group)
        return found

    def _newton_step(self, part: EncodedPart, every: int) -> Doubles:
        """Gradient and Hessian of sum_d (x_click - log sum_b exp(x_b)) - ridge |w|^2 / 2, summed over displays."""
        size = len(self.weights)
        gradient, hessian = -self.config.ridge * self.weights, self.config.ridge * np.eye(size)
        for displays in _pieces(part, every):
            inputs = self._inputs(part, displays, fold=True)
            rows, lengths = _rows(part, displays)
            starts, display = np.cumsum(lengths) - lengths, np.repeat(np.arange(len(lengths)), lengths)
            x = inputs @ self.weights
            p = np.exp(x - np.maximum.reduceat(x, starts)[display])
            p /= np.add.reduceat(p, starts)[display]
            mean = np.add.reduceat(inputs * p[:, None], starts)
            gradient += inputs[np.asarray(part.array("clicked")[rows]) != 0].sum(axis=0) - mean.sum(axis=0)
            hessian += inputs.T @ (inputs * p[:, None]) - mean.T @ mean
        return np.asarray(np.linalg.solve(hessian, gradient), np.float64)

    def _inputs(self, part: EncodedPart, displays: NDArray[np.int64], fold: bool) -> Doubles:
        """(n, 1 + K): the click rate (in the other folds, or in all) and the standardised scores of some displays."""
        rows, lengths = _rows(part, displays)
        ad = np.minimum(part.array("ad_id")[rows], self.rates.shape[1] - 1)
        table = np.repeat(displays % _FOLDS, lengths) if fold else -1
        scores = ((part.values(f, rows).astype(np.float64) - f.mean) / f.scale for f in self.fields)
        return np.stack([self.rates[table, ad], *map(np.nan_to_num, scores)], axis=1)


def _pieces(part: EncodedPart, every: int) -> Iterator[NDArray[np.int64]]:
    """Every so many-th display, in pieces."""
    chosen = np.arange(0, part.displays, every)
    for start in range(0, len(chosen), _CHUNK_DISPLAYS):
        yield chosen[start : start + _CHUNK_DISPLAYS]


def _rows(part: EncodedPart, displays: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of some displays, and how many each has."""
    first, lengths = part.offsets[displays], part.offsets[displays + 1] - part.offsets[displays]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(first, lengths) + within, lengths


def _click_rates(part: EncodedPart, strength: float) -> Doubles:
    """(folds + 1, ads + 1): the logit of the smoothed click rate of each ad_id without a fold, and in all; the last ad
    stands for all that are unknown."""
    size = int(part.array("ad_id").max()) + 2
    shows, clicks = np.zeros((_FOLDS, size)), np.zeros((_FOLDS, size))
    for displays in _pieces(part, 1):
        rows, lengths = _rows(part, displays)
        cell = np.repeat(displays % _FOLDS, lengths) * size + part.array("ad_id")[rows]
        clicked = np.asarray(part.array("clicked")[rows])
        shows += np.bincount(cell, minlength=_FOLDS * size).reshape(_FOLDS, size)
        clicks += np.bincount(cell, clicked, minlength=_FOLDS * size).reshape(_FOLDS, size)
    shows, clicks = (np.vstack([count.sum(axis=0) - count, count.sum(axis=0)]) for count in (shows, clicks))
    mean = clicks[-1].sum() / shows[-1].sum()
    clicks, shows = clicks + strength * mean, shows + strength
    return np.log(clicks / (shows - clicks))
