"""DCN V2: Wang et al. 2021, "DCN V2: improved deep & cross network" (eq. 1 and 3), its two parts in parallel.

x_0     = [e_1, ..., e_F, numbers]
x_{l+1} = x_0 * (W_l x_l + b_l) + x_l                       (eq. 1), * by element
W_l     = U_l V_l^T                                         (section 3.5), of low rank
h       = MLP(x_0)                                          (eq. 2)
logit   = <w_cross, x_L> + <w_deep, h> + b                  (eq. 3 and 4)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core.config import check
from pipeline.models.base import NETWORK_SPACE, Choice, Model, SearchSpace
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.layers import MLP, input_sizes
from pipeline.nn.model import NetworkModel
from pipeline.nn.network import Network
from pipeline.nn.terms import Logit
from pipeline.nn.training import DeepConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(DeepConfig):
    """cross_layers: L. rank: of each W; null for a full matrix. Without hidden layers: the cross network alone."""

    cross_layers: int = 2
    rank: int | None = 32

    def __post_init__(self) -> None:
        DeepConfig.__post_init__(self)
        check(self.cross_layers >= 1, f"cross_layers: must be 1 or more, found {self.cross_layers}")
        check(self.rank is None or self.rank >= 1, f"rank: must be 1 or more, or null, found {self.rank}")


SEARCH_SPACE: SearchSpace = {
    **NETWORK_SPACE,
    "cross_layers": Choice(values=(1, 2, 3)),
    "rank": Choice(values=(16, 32, 64)),
}


class Cross(nn.Module):
    """x_0, x_l (B, n) -> x_{l+1} (B, n)."""

    def __init__(self, size: int, rank: int | None) -> None:
        super().__init__()
        if rank is None or rank >= size:
            self.times: nn.Module = nn.Linear(size, size)
        else:
            self.times = nn.Sequential(nn.Linear(size, rank, bias=False), nn.Linear(rank, size))  # U V^T x + b

    def forward(self, x_0: Tensor, x_l: Tensor) -> Tensor:
        return torch.addcmul(x_l, x_0, self.times(x_l))


class DCNv2(Network):
    def __init__(self, inputs: Inputs, config: Config) -> None:
        super().__init__(inputs, config.embedding_dim)
        sizes = input_sizes(inputs, config.embedding_dim)
        self.crosses = nn.ModuleList(Cross(sum(sizes), config.rank) for _ in range(config.cross_layers))
        self.w_cross = nn.Linear(sum(sizes), 1)
        self.mlp = MLP(sizes, config.hidden, config.dropout)

    def logit(self, batch: Batch) -> Logit:
        """Of the cross network and, in parallel, of the MLP."""
        x = self.embed(batch)
        x_0 = x_l = x.inputs.rows()  # (B, n)
        for cross in self.crosses:
            x_l = cross(x_0, x_l)
        return self.mlp(x.inputs) + self.w_cross(x_l).squeeze(1)


def build(config: Config) -> Model:
    return NetworkModel(DCNv2, config)
