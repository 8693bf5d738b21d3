"""Wide & Deep: Cheng et al. 2016, "Wide & deep learning for recommender systems" (section 3).

logit = w_wide^T [x, phi(x)] + w_deep^T a^(L) + b           (eq. 3)
phi   : cross-product transformations of pairs of fields    (eq. 1), hashed
a^(l) = relu(W^(l) a^(l-1) + b^(l)), a^(0) = [e_1, ..., e_F, numbers]             (eq. 2)
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import check
from pipeline.models.base import NETWORK_SPACE, Model
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.crosses import Crosses, not_hidden
from pipeline.nn.layers import MLP, input_sizes
from pipeline.nn.model import NetworkModel
from pipeline.nn.network import Network
from pipeline.nn.terms import Logit
from pipeline.nn.training import DeepConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(DeepConfig):
    """crosses: pairs of fields such as `viewed_document x ad_id`, each hashed into 2^cross_bits weights; one of a field
    that `leaks: false` hides is left out.

    Without a hidden layer it is the wide part alone.
    """

    crosses: tuple[str, ...] = ()
    cross_bits: int = 18

    def __post_init__(self) -> None:
        DeepConfig.__post_init__(self)
        check(1 <= self.cross_bits <= 30, f"cross_bits: must be from 1 to 30, found {self.cross_bits}")


SEARCH_SPACE = NETWORK_SPACE


class WideDeep(Network):
    def __init__(self, inputs: Inputs, config: Config) -> None:
        super().__init__(inputs, config.embedding_dim)
        crosses = not_hidden(inputs, config.crosses)
        self.phi = Crosses(inputs, crosses, config.cross_bits) if crosses else None
        self.mlp = MLP(input_sizes(inputs, config.embedding_dim), config.hidden, config.dropout)

    def logit(self, batch: Batch) -> Logit:
        """Of the wide and the deep part."""
        x = self.embed(batch)
        wide = self.linear(x)
        if self.phi is not None:
            wide = wide + self.phi(batch)
        return wide + self.mlp(x.inputs)


def build(config: Config) -> Model:
    return NetworkModel(WideDeep, config)
