"""Norms over the last dimension, of each item by itself: nothing here depends on what else is in a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPSILON = 1e-5


def variance_only(x: Tensor, epsilon: float = NORM_EPSILON) -> Tensor:
    """LayerNorm without its mean, gain and bias: x / sqrt(var + eps) over the last dimension (Wang et al. 2020)."""
    variance = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    return x * torch.rsqrt(variance + epsilon)


def layer_norm(x: Tensor, epsilon: float = NORM_EPSILON) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the last dimension, without gain and bias (Ba, Kiros and Hinton 2016)."""
    return functional.layer_norm(x, x.shape[-1:], eps=epsilon)


NORMS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda x, _: x,
    "layer": layer_norm,
    "variance": variance_only,
}


class Norm(nn.Module):
    """One of NORMS as a layer."""

    def __init__(self, name: str, epsilon: float = NORM_EPSILON) -> None:
        super().__init__()
        self.name, self.epsilon = name, epsilon

    def forward(self, x: Tensor) -> Tensor:
        return NORMS[self.name](x, self.epsilon)
