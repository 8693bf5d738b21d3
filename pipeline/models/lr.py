"""Logistic regression by FTRL-Proximal: McMahan et al. 2013, "Ad click prediction: a view from the trenches".

    logit   = b + sum_i x_i w_i                                                          (section 3)
    w_i     = 0 if |z_i| <= l1, else -(z_i - sgn(z_i) l1) / ((beta + sqrt n_i) / alpha + l2)              (algorithm 1)
    g_i     = (p - y) x_i,  sigma_i = (sqrt(n_i + g_i^2) - sqrt n_i) / alpha
    z_i     = z_i + g_i - sigma_i w_i,  n_i = n_i + g_i^2

The rate of each coordinate falls with its own gradients, and l1 keeps rare ids at exactly 0. A step is taken for a
display: what its ads share moves once, by the sum of their gradients. Crosses make an id of each pair of values of two
fields: that is how a linear model learns that an ad suits the readers of a page.

How much the weights of a field (or cross) f differ, and so how strongly l2 should draw them to 0, the data tells, if
they are thought of as drawn from a normal distribution with variance 1 / lambda_f (MacKay 1992, "Bayesian
interpolation", section 4.4; a lambda for each field: Neal's "automatic relevance determination"):

    lambda_f = gamma_f / sum_i w_i^2,   gamma_f = sum_i h_i / (h_i + lambda_f)

h_i, how sharply the data's likelihood falls beside w_i, is the sum of its squared gradients in one epoch: n_i / t after
t epochs. Data that is read t times counts t times, so the prior does, too: l2 is t lambda_f.
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
    """alpha, beta, l1, l2: as in the paper; without an l2 the data tells it, for each field by itself.

    crosses: pairs of encoded fields, such as `viewed x ad_id`, whose pairs of values are ids, too, those of each cross
    hashed into 2 ** cross_bits, or fewer if it has few.
    """

    alpha: float = 0.3
    beta: float = 1.0
    l1: float = 0.0
    l2: float | None = None
    crosses: tuple[str, ...] = ()
    cross_bits: int = 21

    def __post_init__(self) -> None:
        FactorizationConfig.__post_init__(self)
        check(self.alpha > 0, f"alpha: must be above 0, found {self.alpha}")
        for name in ("beta", "l1", "l2"):
            check((getattr(self, name) or 0) >= 0, f"{name}: must be 0 or more, found {getattr(self, name)}")
        check(1 <= self.cross_bits <= 30, f"cross_bits: must be from 1 to 30, found {self.cross_bits}")


SEARCH_SPACE: SearchSpace = {
    "alpha": Uniform(low=0.01, high=1.0, log=True),
    "l1": Uniform(low=0.0, high=2.0),
}
#: lambda until the data tells it, which is asked first after half an epoch, and then each quarter of one.
_FIRST_LAMBDA, _FIRST_EPOCHS, _EACH_EPOCHS = 10.0, 0.5, 0.25
_LAMBDAS = 1e-2, 1e4  # beyond them it makes no difference


class LogisticRegression:
    """table: z and n of each id, and in its last row those of the bias (b is a weight like any other, with x = 1).

    strengths: (R,) lambda of each region of ids (displays.Inputs). l2: (R,) that which counts now.
    """

    def __init__(self, inputs: Inputs, config: Config, history: EncodedPart | None) -> None:
        self.config, self.regions, regions = config, inputs.regions, len(inputs.regions) - 1
        self.sides = tuple(np.array([c.region for c in side], np.int64) for side in (inputs.shared, inputs.own))
        self.table = np.zeros((inputs.table_size + 1 if history is not None else 0, 2))
        self.strengths, self.due = np.full(regions, _FIRST_LAMBDA), np.array([_FIRST_EPOCHS])
        self.l2 = np.full(regions, config.l2 or 0.0)
        self.w: NDArray[np.float32] | None = None

    def reach(self, epochs: float) -> None:
        """l2 = t lambda, unless it is given; lambda is asked of the data when it is due."""
        if self.config.l2 is not None:
            return
        if epochs >= self.due[0]:
            c = self.config
            ftrl.strengths(self.table, self.regions, c.alpha, c.beta, c.l1, self.l2, self.strengths)
            np.clip(self.strengths, *_LAMBDAS, out=self.strengths)
            self.due += _EACH_EPOCHS
        self.l2[:] = epochs * self.strengths

    def learn(self, displays: Displays, order: NDArray[np.int64]) -> float:
        c, listwise = self.config, self.config.loss == "listwise"
        self.w, l2 = None, tuple(self.l2[regions] for regions in self.sides)
        return float(ftrl.learn(displays, order, self.table, listwise, c.alpha, c.beta, c.l1, l2, displays.most))

    def score(self, displays: Displays, which: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        w = self.w  # the same whichever thread makes them
        if w is None:
            self.w = w = self._weights()
        ftrl.score(displays, which, w, out)

    def _weights(self) -> NDArray[np.float32]:
        c, w = self.config, np.empty(len(self.table), np.float32)
        ftrl.weights(self.table, self.regions, c.alpha, c.beta, c.l1, self.l2, w)
        return w

    def state(self) -> Arrays:
        return {"table": self.table, "strengths": self.strengths, "due": self.due, "l2": self.l2}

    def weights(self) -> Arrays:
        """Those that are not 0: an id that history does not hold has none."""
        w = self._weights() if self.w is None else self.w
        ids = np.flatnonzero(w)
        return {"ids": ids.astype(np.int32), "w": w[ids]}

    def keep(self, weights: Arrays) -> None:
        self.table, self.w = np.zeros((0, 2)), np.zeros(self.regions[-1] + 1, np.float32)
        self.w[weights["ids"]] = weights["w"]


def build(config: Config) -> Model:
    return FactorizationModel(
        LogisticRegression,
        config,
        crosses=lambda encoded: named_crosses(encoded, config.crosses),
        cross_bits=config.cross_bits,
    )
