"""Factorization machine: Rendle 2010, "Factorization machines".

Each id has a weight and one vector. With e_i = sum over the values of field i of x * v:

    logit = b + r^(1/2) sum_i w_i + r sum_{i<j} <e_i, e_j>                              (eq. 1; r = 1 / sum x^2, or 1)
    sum_{i<j} <e_i, e_j> = (|S|^2 - sum_i |e_i|^2) / 2,  S = sum_i e_i                  (lemma 3.1)
    d logit / d v = r x (S - e_i)                                                       (eq. 4)

Trained by AdaGrad, as libffm and xlearn do, a step for a display: what its ads share is read once, and changed once, by
the sum of their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.factorization import fm
from pipeline.factorization.displays import Inputs
from pipeline.factorization.model import FactorizationModel
from pipeline.factorization.tables import TableConfig, TableLearner
from pipeline.models.base import Choice, Model, SearchSpace, Uniform
from pipeline.schemas.encoded import EncodedPart


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(TableConfig):
    """FM has no parameters of its own."""

    k: int = 8


SEARCH_SPACE: SearchSpace = {
    "k": Choice(values=(4, 8, 16)),
    "learning_rate": Uniform(low=0.02, high=0.5, log=True),
    "l2": Uniform(low=1e-6, high=1e-3, log=True),
}


class FM(TableLearner):
    """A block is a vector and, behind it, the linear weight."""

    def __init__(self, inputs: Inputs, config: Config, history: EncodedPart | None) -> None:
        super().__init__(fm, inputs, config, history, config.k + 1)

    def clear_weights(self, blocks: NDArray[np.float32]) -> None:
        blocks[:, self.config.k] = 0


def build(config: Config) -> Model:
    return FactorizationModel(FM, config)
