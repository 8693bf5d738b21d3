"""Logistic regression by FTRL-Proximal: McMahan et al. 2013, "Ad click prediction: a view from the trenches".

    logit   = b + sum_i x_i w_i                                                          (section 3)
    w_i     = 0 if |z_i| <= l1, else -(z_i - sgn(z_i) l1) / ((beta + sqrt n_i) / alpha + l2)              (algorithm 1)
    g_i     = (p - y) x_i,  sigma_i = (sqrt(n_i + g_i^2) - sqrt n_i) / alpha
    z_i     = z_i + g_i - sigma_i w_i,  n_i = n_i + g_i^2

The rate of each coordinate falls with its own gradients, and l1 keeps rare ids at exactly 0. A step is taken for a
display: what its ads share moves once, by the sum of their gradients. Crosses make an id of each pair of values of two
fields: that is how a linear model learns that an ad suits the readers of a page.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import check
from pipeline.factorization import ftrl
from pipeline.factorization.displays import Displays, Inputs, named_crosses
from pipeline.factorization.model import FactorizationModel
from pipeline.factorization.training import Arrays, FactorizationConfig
from pipeline.models.base import Model, SearchSpace, Uniform
from pipeline.schemas.encoded import EncodedPart


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(FactorizationConfig):
    """alpha, beta, l1, l2: as in the paper.

    crosses: pairs of encoded fields, such as `viewed x ad_id`, whose pairs of values are ids, too; all of them are
    hashed into 2 ** cross_bits. With `viewed x ad_id * 4` they have 4 times the x, so that l2 holds them back less: for
    what has small weights, and for what is expected to matter much.
    """

    alpha: float = 0.1
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 1.0
    crosses: tuple[str, ...] = ()
    cross_bits: int = 22

    def __post_init__(self) -> None:
        FactorizationConfig.__post_init__(self)
        check(self.alpha > 0, f"alpha: must be above 0, found {self.alpha}")
        for name in ("beta", "l1", "l2"):
            check(getattr(self, name) >= 0, f"{name}: must be 0 or more, found {getattr(self, name)}")
        check(1 <= self.cross_bits <= 30, f"cross_bits: must be from 1 to 30, found {self.cross_bits}")


SEARCH_SPACE: SearchSpace = {
    "alpha": Uniform(low=0.01, high=1.0, log=True),
    "l1": Uniform(low=0.0, high=2.0),
    "l2": Uniform(low=0.1, high=100.0, log=True),
}


class LogisticRegression:
    """table: z and n of each id, and in its last row those of the bias (b is a weight like any other, with x = 1)."""

    def __init__(self, inputs: Inputs, config: Config, history: EncodedPart | None) -> None:
        self.config, self.rates = config, (config.alpha, config.beta, config.l1, config.l2)
        self.table = np.zeros((inputs.table_size + 1, 2))

    def learn(self, displays: Displays, order: NDArray[np.int64]) -> float:
        listwise = self.config.loss == "listwise"
        return float(ftrl.learn(displays, order, self.table, listwise, *self.rates, displays.most))

    def score(self, displays: Displays, which: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        ftrl.score(displays, which, self.table, *self.rates, out)

    def state(self) -> Arrays:
        return {"table": self.table}

    def weights(self) -> Arrays:
        return {"table": self.table.copy()}

    def keep(self, weights: Arrays) -> None:
        self.table = weights["table"]


def build(config: Config) -> Model:
    return FactorizationModel(
        LogisticRegression,
        config,
        crosses=lambda encoded: named_crosses(encoded, config.crosses),
        cross_bits=config.cross_bits,
    )
