"""DeepLight: Deng et al. 2021, "DeepLight: deep lightweight feature interactions" (arXiv 2002.06987).

logit    = lr + sum_{i<j} r_ij <e_i, e_j> + MLP([e_1, ..., e_F, numbers])         DeepFwFM: pairs have weights
pruning  : of the field pairs R, of the MLP's weights and of the embeddings, the smallest are set to 0 while it trains
s(t)     = S (1 - damping^(t / Omega))                                            (algorithm 1) after a warm-up
inference: a compiled loop (nn.sparse) that only multiplies what is left

Unlike the paper's, embeddings are pruned by e^2 g^2, the diagonal of the Fisher information, which is how much the loss
feels it (LeCun et al. 1990, "Optimal brain damage"; Theis et al. 2018): e alone tells nothing of how often an id is
read. They are turned to their principal axes first. All hidden layers share one threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.config import check
from pipeline.models.base import NETWORK_SPACE, Model
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.layers import MLP, WeightedPairs, input_sizes
from pipeline.nn.model import NetworkModel
from pipeline.nn.network import Network
from pipeline.nn.pruning import principal_axes, prune, sparsity_at
from pipeline.nn.sparse import SparseNetwork
from pipeline.nn.terms import Logit
from pipeline.nn.training import DeepConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(DeepConfig):
    """embedding_sparsity, hidden_sparsity, pair_sparsity: the shares of embeddings, of the MLP's weights and of field
    pairs that are 0 in the end; with all three 0 nothing is pruned. warmup, omega: how long nothing is pruned, and
    after how much longer the shares are reached, as shares of the longest training. damping: how much of the way is
    then left, before the rest is pruned at once: little, as the last percents cost most. Only what is pruned in full is
    measured.
    """

    embedding_sparsity: float = 0.9
    hidden_sparsity: float = 0.95
    pair_sparsity: float = 0.6
    warmup: float = 0.15
    omega: float = 0.35
    damping: float = 0.005

    def __post_init__(self) -> None:
        DeepConfig.__post_init__(self)
        for name in ("embedding_sparsity", "hidden_sparsity", "pair_sparsity"):
            check(0 <= getattr(self, name) < 1, f"{name}: must be from 0 to below 1, found {getattr(self, name)}")
        check(self.warmup >= 0, f"warmup: must be 0 or more, found {self.warmup}")
        check(self.omega > 0, f"omega: must be above 0, found {self.omega}")
        check(self.warmup + self.omega <= 1, "warmup + omega: must be at most 1, or training ends before pruning does")
        check(0 < self.damping < 1, f"damping: must be between 0 and 1, found {self.damping}")

    @property
    def pruned(self) -> bool:
        return max(self.embedding_sparsity, self.hidden_sparsity, self.pair_sparsity) > 0


SEARCH_SPACE = NETWORK_SPACE  # how much is to be pruned is for who deploys it to say: nothing rises by it but speed


class DeepLight(Network):
    def __init__(self, inputs: Inputs, config: Config) -> None:
        super().__init__(inputs, config.embedding_dim)
        self.config = config
        self.pairs = WeightedPairs(inputs)
        self.mlp = MLP(input_sizes(inputs, config.embedding_dim), config.hidden, config.dropout)
        self.turned: Tensor
        self.register_buffer("turned", torch.tensor(False))  # a buffer, so that checkpoints know it

    def logit(self, batch: Batch) -> Logit:
        x = self.embed(batch)
        y_fwfm = self.linear(x) + self.pairs(x.embeddings)
        return y_fwfm + self.mlp(x.inputs)

    def prune(self, done: float, squares: Callable[[], Tensor]) -> bool:
        """Prune as far as s(t) says at that time; whether that is all."""
        c = self.config

        def share(target: float) -> float:
            return sparsity_at(done, target, c.warmup, c.omega, c.damping)

        if not c.pruned or done <= c.warmup:
            return not c.pruned
        embeddings, matrices = self.embed.weight[:, 1:], self.mlp.weights()
        if c.embedding_sparsity:
            felt = squares()
            if not self.turned:
                self.turn(felt)
            prune([embeddings], [embeddings.square().mul_(felt[:, 1:])], share(c.embedding_sparsity))
        self.pairs.prune(share(c.pair_sparsity))
        prune(matrices, [matrix.abs() for matrix in matrices], share(c.hidden_sparsity))
        return done >= c.warmup + c.omega

    @torch.no_grad()
    def turn(self, squares: Tensor) -> None:
        """Turn the space of embeddings to its principal axes: no logit changes, but most coordinates come close to 0.

        <e_i Q, e_j Q> = <e_i, e_j>, and the MLP's first layer is turned along.
        """
        embeddings, size = self.embed.weight[:, 1:], self.embed.size
        axes = principal_axes(embeddings, squares[:, 1:].mean(1))
        embeddings.copy_(embeddings @ axes)
        sides = self.embed.inputs.display, self.embed.inputs.impression
        for matrix, side in zip(self.mlp.weights()[:2], sides, strict=False):  # there may be no MLP
            own = matrix[:, : len(side.embedded) * size]
            own.copy_((own.reshape(len(own), len(side.embedded), size) @ axes).flatten(1))
        self.turned.fill_(True)


class DeepLightModel(NetworkModel):
    """Infers by what is left of the network, where that runs (on a CPU)."""

    def scorer(self, network: Network) -> Callable[[Batch], Tensor]:
        """The compiled loop, if anything was pruned."""
        assert isinstance(network, DeepLight)
        if not network.config.pruned or network.embed.weight.device.type != "cpu":
            return network
        return SparseNetwork(network.embed, network.linear, network.pairs, network.mlp)


def build(config: Config) -> Model:
    return DeepLightModel(DeepLight, config)
