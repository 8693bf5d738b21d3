"""The competition's baseline: the smoothed click rate of the ad, (clicks + 12 b) / (shows + 12); b: the mean rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import check
from pipeline.models.base import Model, SearchSpace
from pipeline.schemas.encoded import Encoded, EncodedPart
from pipeline.schemas.fitting import FitOptions, Fitted

_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """strength: how many shows at the mean click rate are added to every ad."""

    strength: float = 12.0

    def __post_init__(self) -> None:
        check(self.strength > 0, f"strength: must be above 0, found {self.strength}")


SEARCH_SPACE: SearchSpace = {}


class AdClickRate:
    """The click rates are an array by ad id; an ad that history does not know has the mean."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.logit = np.zeros(1)

    def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
        history = encoded.part("history")
        ad_id, clicked = history.array("ad_id"), history.array("clicked")
        size = int(ad_id.max()) + 2  # the last one stands for all unknown ads
        shows, clicks = np.zeros(size), np.zeros(size)
        for start in range(0, history.rows, _CHUNK):
            rows = slice(start, start + _CHUNK)
            shows += np.bincount(ad_id[rows], minlength=size)
            clicks += np.bincount(ad_id[rows], clicked[rows], minlength=size)
        rate = (clicks + self.config.strength * clicks.sum() / shows.sum()) / (shows + self.config.strength)
        self.logit = np.log(rate / (1 - rate))
        return Fitted(length=1.0, curve=[])

    def predict(self, part: EncodedPart) -> NDArray[np.float32]:
        last = len(self.logit) - 1
        return self.logit[np.minimum(part.array("ad_id"), last)].astype(np.float32)

    def save(self, folder: Path) -> None:
        np.save(folder / "logit.npy", self.logit)

    def load(self, folder: Path) -> None:
        self.logit = np.load(folder / "logit.npy")


def build(config: Config) -> Model:
    return AdClickRate(config)
