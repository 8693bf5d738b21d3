"""Structural pruning while training: ever more of the smallest weights are set to 0, and may grow again in between.

Deng et al. 2021, "DeepLight" (arXiv 2002.06987), algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SAMPLE = 4_000_000  # entries of a large table from which its threshold is taken


def sparsity_at(epoch: float, target: float, warmup: float, omega: float, damping: float) -> float:
    """The share of weights that are 0 after so many epochs.

    target * (1 - damping^((epoch - warmup) / omega)), 0 before warmup, and target from warmup + omega on.
    """
    since = (epoch - warmup) / omega
    if since <= 0:
        return 0.0
    return target if since >= 1 else target * (1 - damping**since)


@torch.no_grad()
def prune(weight: Tensor, share: float) -> None:
    """Set the smallest of a tensor's entries to 0, in place: a share of them (by a sample, if it is large)."""
    entries = weight.numel()
    if not entries or share <= 0:
        return
    sizes = weight.reshape(-1).abs() if weight.is_contiguous() else weight.abs().reshape(-1)
    sample = sizes[:: max(1, entries // _SAMPLE)]
    count = round(share * len(sample))
    if not count:
        return
    threshold = sample.kthvalue(count).values
    weight.masked_fill_(weight.abs() <= threshold, 0.0)


def sparsity(weight: Tensor) -> float:
    """The share of a tensor's entries that are 0."""
    return 1.0 - int(torch.count_nonzero(weight)) / max(1, weight.numel())
