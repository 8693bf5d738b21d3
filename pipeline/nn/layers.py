"""The parts that networks are made of. Shapes: B rows, F fields (categorical, then multi-valued), D embedding size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.nn.batches import Batch, Inputs


class FieldEmbedding(nn.Module):
    """Weight w_i and embedding e_i of every field, from one fused table; a step only touches the rows that it reads.

    A multi-valued field is the weighted sum of its values.
    """

    def __init__(self, inputs: Inputs, dim: int) -> None:
        super().__init__()
        self.inputs, self.dim = inputs, dim
        self.table = nn.Embedding(inputs.table_size, 1 + dim, sparse=True)
        with torch.no_grad():
            self.table.weight.normal_(0, 0.05)
            self.table.weight[:, 0] = 0

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The weights (B, F) and the embeddings (B, F, D)."""
        parts = [self.table(batch.codes)]  # (B, F categorical, 1 + D)
        if self.inputs.multi:
            bags = functional.embedding_bag(
                batch.bag_ids,
                self.table.weight,
                batch.bag_starts,
                mode="sum",
                sparse=True,
                per_sample_weights=batch.bag_weights,
            )
            parts.append(bags.view(len(self.inputs.multi), batch.rows, 1 + self.dim).transpose(0, 1))
        both = torch.cat(parts, dim=1)  # (B, F, 1 + D)
        self.last = both[:, :, 0], both[:, :, 1:]
        return self.last


class Linear(nn.Module):
    """b + sum of w_i + <v, numbers>: the part of logistic regression, which every model has. (B,)"""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.numbers = nn.Parameter(torch.zeros(len(inputs.numeric)))

    def forward(self, weights: Tensor, numbers: Tensor) -> Tensor:
        return self.bias + weights.sum(1) + numbers @ self.numbers


def fm(embeddings: Tensor) -> Tensor:
    """Sum over pairs of fields of <e_i, e_j>, in O(F D): Rendle 2010, lemma 3.1. (B, F, D) -> (B,)"""
    total = embeddings.sum(1)
    return 0.5 * (total.square() - embeddings.square().sum(1)).sum(1)


class MLP(nn.Sequential):
    """Linear, ReLU, dropout for each hidden size, then one logit. (B, inputs) -> (B,); no hidden layer: 0."""

    def __init__(self, inputs: int, hidden: Sequence[int], dropout: float) -> None:
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(inputs, size), nn.ReLU(), nn.Dropout(dropout)]
            inputs = size
        super().__init__(*layers, nn.Linear(inputs, 1, bias=False))
        self.empty = not hidden

    def forward(self, x: Tensor) -> Tensor:
        if self.empty:
            return x.new_zeros(len(x))
        return torch.as_tensor(super().forward(x)).squeeze(1)
