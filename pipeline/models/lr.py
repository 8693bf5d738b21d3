"""Logistic regression over ids: McMahan et al. 2013, "Ad click prediction: a view from the trenches".

    logit = b + sum_i w_i                                                             (eq. 1, one-hot fields)

Trained by the common loop (lazy Adam on the rows that occur).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.models.base import Model, SearchSpace, Uniform
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.model import NetworkModel
from pipeline.nn.training import Network, TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(TrainingConfig):
    """Logistic regression has no parameters of its own."""


SEARCH_SPACE: SearchSpace = {
    "embedding_learning_rate": Uniform(low=1e-3, high=1e-1, log=True),
    "l2": Uniform(low=1e-6, high=1e-2, log=True),
}


class LogisticRegression(Network):
    def __init__(self, inputs: Inputs, config: Config) -> None:
        super().__init__(inputs, embedding_size=0)

    def forward(self, batch: Batch) -> Tensor:
        return self.linear(self.embed(batch))


def build(config: Config) -> Model:
    return NetworkModel(LogisticRegression, config)
