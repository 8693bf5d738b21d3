"""NormDNN: Wang, She, Zhang and Zhang 2020, "Correct normalization matters" (arXiv 2006.12753).

logit = lr + MLP                                            the wide and the deep part
lr    = b + sum_i w_i
MLP   : h_0     = [norm(e_1), ..., norm(e_F), numbers]      normalised embeddings
        h_{l+1} = relu(norm(W_l h_l + b_l))                 normalised before each activation
norm  : x / sqrt(var(x) + eps)                              variance-only LayerNorm: of LayerNorm, the variance is what
                                                            works; mean, gain and bias are left out
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.core.config import check
from pipeline.models.base import NETWORK_SPACE, Choice, Model, SearchSpace, Uniform
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.layers import MLP, input_sizes
from pipeline.nn.model import NetworkModel
from pipeline.nn.network import Network
from pipeline.nn.norms import Norm
from pipeline.nn.terms import Joined, Logit
from pipeline.nn.training import DeepConfig

NormName = Literal["none", "layer", "variance"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(DeepConfig):
    """embedding_norm, hidden_norm: of the embeddings, and of what goes into each activation.

    With both `none` it is the plain network. epsilon: eps of both. What varies little beside it stays small: embeddings
    of ids that have been read a few times, and mostly noise, and layers that hardly tell this ad from another; with the
    usual 1e-5 either would be as large as any, and that costs MAP@12.
    """

    embedding_norm: NormName = "variance"
    hidden_norm: NormName = "variance"
    epsilon: float = 1.0

    def __post_init__(self) -> None:
        DeepConfig.__post_init__(self)
        check(self.embedding_dim >= 2, f"embedding_dim: must be 2 or more, found {self.embedding_dim}")
        check(self.epsilon > 0, f"epsilon: must be above 0, found {self.epsilon}")
        check(bool(self.hidden), "hidden: expected at least one layer")
        check(all(size >= 2 for size in self.hidden), f"hidden: sizes must be 2 or more, found {list(self.hidden)}")


SEARCH_SPACE: SearchSpace = {
    **NETWORK_SPACE,
    "embedding_norm": Choice(values=("none", "layer", "variance")),
    "epsilon": Uniform(low=1e-3, high=10.0, log=True),
}


class NormDNN(Network):
    def __init__(self, inputs: Inputs, config: Config) -> None:
        super().__init__(inputs, config.embedding_dim)
        sizes = input_sizes(inputs, config.embedding_dim)
        self.norm, hidden_norm = (
            Norm(name, config.epsilon) if name != "none" else None
            for name in (config.embedding_norm, config.hidden_norm)
        )
        self.mlp = MLP(sizes, config.hidden, config.dropout, hidden_norm)

    def logit(self, batch: Batch) -> Logit:
        x = self.embed(batch)
        h_0 = Joined(x.embeddings, x.numbers, self.norm)
        return self.linear(x) + self.mlp(h_0)


def build(config: Config) -> Model:
    return NetworkModel(NormDNN, config)
