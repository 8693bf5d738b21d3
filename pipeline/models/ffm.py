"""Field-aware factorization machine: Juan et al. 2016, "Field-aware factorization machines for CTR prediction".

Each id has a vector for each field that it may meet: a pair of ids is the product of the vectors that each has for the
other's field. With A_{i,j} = sum over the values of field i of x * w_{value, j}:

    logit = b + r^(1/2) sum_i w_i + r sum_{i<j} <A_{i,j}, A_{j,i}>,  r = 1 / sum x^2      (eq. 4; r: section 3.1)
    g     = l2 w + kappa x <the other's vector>,  kappa = d loss / d logit                (eq. 5, 6)
    G     = G + g^2,  w = w - eta g / sqrt(G)                                             (eq. 7 to 10; AdaGrad)

eq. 4 has no linear part and no bias; b and w_i are those of logistic regression. A step is taken for a display: what
its ads share is read once, and changed once, by the sum of their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.factorization import ffm
from pipeline.factorization.displays import Inputs
from pipeline.factorization.model import FactorizationModel
from pipeline.factorization.tables import TableConfig, TableLearner
from pipeline.models.base import Choice, Model, SearchSpace, Uniform
from pipeline.schemas.encoded import EncodedPart


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(TableConfig):
    """linear: groups and fields that are not paired with others: of each id they have the linear weight w alone. An
    FFM's time goes with the square of the fields that are paired.
    """

    linear: tuple[str, ...] = ()


SEARCH_SPACE: SearchSpace = {
    "k": Choice(values=(4, 8)),
    "learning_rate": Uniform(low=0.1, high=2.0, log=True),
    "l2": Uniform(low=1e-6, high=1e-3, log=True),
}


class FFM(TableLearner):
    """A block holds a vector for each field; where an id's own field would be stands its linear weight."""

    def __init__(self, inputs: Inputs, config: Config, history: EncodedPart | None) -> None:
        size = ffm.block_size(sum(inputs.pairs.values()), config.k)
        super().__init__(ffm, inputs, config, history, size)

    def clear_weights(self, blocks: NDArray[np.float32]) -> None:
        """In the chunk of the id's own field, or in the first number of what is not paired."""
        k, inputs = self.config.k, self.inputs
        of_shared, of_own = inputs.pairs.values()
        for j, column in enumerate([*inputs.shared[:of_shared], *inputs.own[:of_own]]):
            blocks[column.ids(), j * k : (j + 1) * k] = 0
        for unpaired in [*inputs.shared[of_shared:], *inputs.own[of_own:]]:
            blocks[unpaired.ids(), 0] = 0


def build(config: Config) -> Model:
    return FactorizationModel(FFM, config, linear=config.linear)
