"""An MLP as one differentiable operation on a CPU, in fewer passes over memory than by one operation a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.nn import activations
from pipeline.nn.batches import Batch
from pipeline.nn.functions import array, spread_rows, sum_rows


@dataclass(frozen=True, slots=True)
class Between:
    """What follows the hidden layers: a norm (none, layer, variance), and the share that dropout drops by `seeds`."""

    norm: str
    epsilon: float
    drop: float
    seeds: list[int]


def mlp(display: Tensor, impression: Tensor, weights: Sequence[Tensor], between: Between, batch: Batch) -> Tensor:
    """[display, impression] -> linear, norm, ReLU, dropout for each layer -> logit. (D, P), (B, Q) -> (B,) On a CPU.

    weights: of the first layer (H, P), (H, Q), (H,), then a matrix and a bias for each layer, and (1, H) of the logit.
    """
    if torch.is_grad_enabled():
        out: Tensor = _MLP.apply(display, impression, batch.starts, between, *weights)
        return out
    return _forward(display, impression, batch.starts, between, weights)[0]


@dataclass(slots=True)
class _Layer:
    """What the backward pass needs of a hidden layer: after norm, its scales, and after dropout."""

    normed: Tensor
    scales: Tensor
    hidden: Tensor


def _forward(
    display: Tensor, impression: Tensor, starts: Tensor, between: Between, weights: Sequence[Tensor]
) -> tuple[Tensor, list[_Layer]]:
    w_display, w_impression, bias, *others = weights
    x = spread_rows(functional.linear(display, w_display, bias), starts, len(impression))
    x.addmm_(impression, w_impression.t())
    layers: list[_Layer] = []
    for i, seed in enumerate(between.seeds):
        if i:
            x = functional.linear(layers[-1].hidden, *others[2 * i - 2 : 2 * i])
        layers.append(_activate(x, between, seed))
    return layers[-1].hidden @ others[-1][0], layers


def _activate(x: Tensor, between: Between, seed: int) -> _Layer:
    """Overwrites x."""
    normed, scales = x, x
    if between.norm != "none":
        scales = x.new_empty(len(x))
        epsilon = array(x).dtype.type(between.epsilon)
        activations.normalize(array(x), between.norm == "layer", epsilon, array(scales))
        x = normed.clone()
    activations.rectify(array(x), between.drop, seed)
    return _Layer(normed, scales, x)


def _activate_gradient(gradient: Tensor, layer: _Layer, between: Between) -> None:
    """In place."""
    g = array(gradient)
    activations.rectify_gradient(g, array(layer.hidden), between.drop)
    if between.norm != "none":
        activations.normalize_gradient(g, array(layer.normed), between.norm == "layer", array(layer.scales))


def normalize(x: Tensor, centred: bool, epsilon: float) -> Tensor:
    """activations.normalize over the last dimension, as a step of autograd; on a CPU."""
    out: Tensor = _Normalize.apply(x, centred, epsilon)
    return out


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, centred: bool, epsilon: float) -> Tensor:
        y = x.detach().clone(memory_format=torch.contiguous_format)
        flat = array(y).reshape(-1, x.shape[-1])
        scales = np.empty(len(flat), flat.dtype)
        activations.normalize(flat, centred, flat.dtype.type(epsilon), scales)
        ctx.save_for_backward(y)
        ctx.centred, ctx.scales = centred, scales
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        g = gradient.clone(memory_format=torch.contiguous_format)
        shape = -1, y.shape[-1]
        activations.normalize_gradient(array(g).reshape(shape), array(y).reshape(shape), ctx.centred, ctx.scales)
        return g, None, None


def random_bits(like: Tensor, seed: int) -> Tensor:
    """The 32 bits that activations.rectify draws for each number of a tensor, by torch's operations. int64"""
    low = (1 << 32) - 1
    x = torch.arange(like.numel(), device=like.device).view(like.shape) ^ seed
    x = (x ^ (x >> 16)) * 0x7FEB352D & low
    x = (x ^ (x >> 15)) * 0x846CA68B & low
    return x ^ (x >> 16)


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, display: Tensor, impression: Tensor, starts: Tensor, between: Between, *weights: Tensor
    ) -> Tensor:
        out, layers = _forward(display, impression, starts, between, weights)
        ctx.save_for_backward(display, impression, *weights)
        ctx.starts, ctx.between, ctx.layers = starts, between, layers
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logit: Tensor) -> tuple[Tensor | None, ...]:
        display, impression, w_display, w_impression, _, *others = ctx.saved_tensors
        layers, between = ctx.layers, ctx.between
        found = [(of_logit @ layers[-1].hidden).unsqueeze(0)]  # of others, from behind
        g = torch.empty_like(layers[-1].hidden)
        activations.outer(array(of_logit), array(others[-1][0]), array(g))
        for i in range(len(layers) - 1, 0, -1):
            _activate_gradient(g, layers[i], between)
            found += [g.sum(0), g.t() @ layers[i - 1].hidden]
            g = g @ others[2 * i - 2]
        _activate_gradient(g, layers[0], between)
        shared = sum_rows(g, ctx.starts)
        of_weights = shared.t() @ display, g.t() @ impression, shared.sum(0), *reversed(found)
        return shared @ w_display, g @ w_impression, None, None, *of_weights
