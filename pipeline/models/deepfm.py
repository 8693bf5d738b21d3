"""DeepFM: Guo et al. 2017, "DeepFM: a factorization-machine based neural network for CTR prediction" (eq. 1 to 4).

logit   = y_FM + y_DNN                                      (eq. 1, before the sigmoid)
y_FM    = b + sum_i w_i + sum_{i<j} <e_i, e_j>              (eq. 2)
a^(0)   = [e_1, ..., e_F, numbers]                          (eq. 3), the same embeddings
a^(l+1) = relu(W^(l) a^(l) + b^(l))                         (eq. 4)
y_DNN   = <w_deep, a^(L)>                                   b stands in y_FM
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.models.base import Choice, Model, SearchSpace, Uniform
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.layers import MLP, fm, input_sizes
from pipeline.nn.model import NetworkModel
from pipeline.nn.network import Network
from pipeline.nn.terms import Logit
from pipeline.nn.training import DeepConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(DeepConfig):
    """Without a hidden layer it is a factorization machine."""


SEARCH_SPACE: SearchSpace = {
    "embedding_dim": Choice(values=(4, 8, 16)),
    "hidden": Choice(values=((64,), (128, 64), (256, 128))),
    "dropout": Uniform(low=0.0, high=0.5),
    "learning_rate": Uniform(low=3e-4, high=1e-2, log=True),
    "embedding_learning_rate": Uniform(low=1e-3, high=0.05, log=True),
    "l2": Uniform(low=1e-6, high=1e-2, log=True),
}


class DeepFM(Network):
    def __init__(self, inputs: Inputs, config: Config) -> None:
        super().__init__(inputs, config.embedding_dim)
        self.mlp = MLP(input_sizes(inputs, config.embedding_dim), config.hidden, config.dropout)

    def logit(self, batch: Batch) -> Logit:
        x = self.embed(batch)
        y_fm = self.linear(x) + fm(x.embeddings)
        y_dnn = self.mlp(x.inputs)
        return y_fm + y_dnn


def build(config: Config) -> Model:
    return NetworkModel(DeepFM, config)
