"""DeepFM: Guo et al. 2017, "DeepFM: a factorization-machine based neural network for CTR prediction" (eq. 1 to 4).

logit   = y_FM + y_DNN                                      (eq. 1, before the sigmoid)
y_FM    = b + sum_i w_i + sum_{i<j} <e_i, e_j>              (eq. 2)
a^(0)   = [e_1, ..., e_F, numbers]                          (eq. 3), the same embeddings
a^(l+1) = relu(W^(l) a^(l) + b^(l))                         (eq. 4)
y_DNN   = <w_deep, a^(L)>                                   b stands in y_FM
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.models.base import NETWORK_SPACE, Model
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.layers import MLP, fm, input_sizes
from pipeline.nn.model import NetworkModel
from pipeline.nn.network import Network
from pipeline.nn.terms import Logit
from pipeline.nn.training import DeepConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(DeepConfig):
    """Without a hidden layer it is a factorization machine."""


SEARCH_SPACE = NETWORK_SPACE


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
