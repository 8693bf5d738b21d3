"""Structural pruning while training: ever more of the smallest weights are set to 0, and may grow again in between.

Deng et al. 2021, "DeepLight" (arXiv 2002.06987), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SAMPLE = 1_000_000  # about as many entries tell the threshold; 1 in 3,000 of a share of 0.9 is luck


def sparsity_at(time: float, target: float, warmup: float, omega: float, damping: float) -> float:
    """The share of weights that are 0 at that time, in whatever unit it and the others are.

    target * (1 - damping^((time - warmup) / omega)), 0 before warmup, and target from warmup + omega on.
    """
    since = (time - warmup) / omega
    if since <= 0:
        return 0.0
    return target if since >= 1 else target * (1 - damping**since)


@torch.no_grad()
def prune(weights: Sequence[Tensor], importance: Sequence[Tensor], share: float) -> None:
    """Set the least important entries of some tensors to 0, in place: a share of them all (by a sample, if many).

    importance: of each entry, of the shape of its tensor.
    """
    entries = sum(x.numel() for x in importance)
    if not round(share * entries):
        return
    step = max(1, entries // _SAMPLE)
    sample = torch.cat([x[::step].reshape(-1) for x in importance])  # whole rows: columns differ in size
    count = max(1, round(share * len(sample)))
    threshold = sample.kthvalue(count).values
    for weight, x in zip(weights, importance, strict=True):
        weight.masked_fill_(x <= threshold, 0.0)


def principal_axes(rows: Tensor, weights: Tensor) -> Tensor:
    """An orthogonal matrix (E, E): in rows @ axes the squares, by weights (N,), are gathered in the fewest columns."""
    moments = (rows * weights.unsqueeze(1)).t() @ rows
    return torch.linalg.eigh(moments.double()).eigenvectors.to(rows.dtype)


def sparsity(weight: Tensor) -> float:
    """The share of a tensor's entries that are 0."""
    return 1.0 - int(torch.count_nonzero(weight)) / max(1, weight.numel())
