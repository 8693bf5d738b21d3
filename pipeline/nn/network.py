"""What all networks have in common."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.nn import functions
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.layers import FieldEmbedding, Linear
from pipeline.nn.terms import Compiled, Logit


class Network(nn.Module):
    """What the loop trains: `logit(batch)` is that of each row.

    Every network reads the fields through `embed` and has the linear part of logistic regression.
    """

    def __init__(self, inputs: Inputs, embedding_size: int) -> None:
        super().__init__()
        self.embed = FieldEmbedding(inputs, embedding_size)
        self.linear = Linear(inputs)

    def logit(self, batch: Batch) -> Logit:
        """The equation of the network."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        """(B,)"""
        return self.logit(batch).value()

    def compiled(self) -> Compiled | None:
        """What computes the whole network, in its present mode, by compiled loops alone, if they can."""
        if not functions.has_kernels(self.embed.weight):
            return None
        with torch.no_grad():
            return self.logit(self.embed.inputs.nothing()).compiled()

    def prune(self, done: float, squares: Callable[[], Tensor]) -> bool:
        """Make the network smaller, if it is of that kind; called some times an epoch and before each evaluation.

        done: of the longest training, how much. squares: gives those of the gradients of the table (N, 1 + E),
        RowOptimizer.squares. Returns whether a network of this time is one to keep: only such are evaluated.
        """
        return True
