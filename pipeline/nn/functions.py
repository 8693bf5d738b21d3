"""Differentiable operations between displays and their rows: compiled loops on a CPU, torch's operations elsewhere.

Shapes as in `kernels`, `sides` and `layers`; the batch tells which rows belong to which display.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.nn import kernels, sides
from pipeline.nn.batches import Batch, Values


def has_kernels(tensor: Tensor) -> bool:
    return tensor.is_cpu


def array(tensor: Tensor) -> NDArray[Any]:
    """A tensor's memory for a kernel, in order."""
    return (tensor.detach() if tensor.requires_grad else tensor).contiguous().numpy()


def look_up(table: Tensor, values: Values) -> tuple[Tensor, Tensor]:
    """Weights (n, G) and embeddings (n, G, E) of all categorical fields, then of all bags; outside of autograd."""
    n, categorical = values.codes.shape
    fields, size = categorical + len(values.bag_offsets), table.shape[1] - 1
    weights, embeddings = table.new_empty(n, fields), table.new_empty(n, fields, size)
    if has_kernels(table):
        memory, out = array(table), ((0,) * size, array(weights), array(embeddings))
        kernels.look_up(memory, array(values.codes), *out)
        if fields > categorical:
            stored = array(values.bag_ids), array(values.bag_weights), array(values.bag_offsets)
            kernels.sum_bags(memory, *stored, categorical, *out)
        return weights, embeddings
    own = functional.embedding(values.codes, table.detach())  # (n, F, 1 + E)
    weights[:, :categorical], embeddings[:, :categorical] = own[:, :, 0], own[:, :, 1:]
    for j, offsets in enumerate(values.bag_offsets, categorical):
        inside = slice(int(offsets[0]), int(offsets[-1]))
        bags = functional.embedding_bag(  # of one field: in a piece of a batch, others' lie between those of two fields
            values.bag_ids[inside],
            table.detach(),
            (offsets[:-1] - inside.start).to(values.bag_ids.dtype),
            mode="sum",
            per_sample_weights=values.bag_weights[inside].to(table.dtype),
        )
        weights[:, j], embeddings[:, j] = bags[:, 0], bags[:, 1:]
    return weights, embeddings


# --- spread -------------------------------------------------------------------------------------------------------


def spread(values: Tensor, batch: Batch) -> Tensor:
    """Give each row what its display has. (D, ...) -> (B, ...)"""
    if not has_kernels(values):
        return values.index_select(0, batch.display_of)
    rows: Tensor = _Spread.apply(values.reshape(len(values), math.prod(values.shape[1:])), batch.starts, batch.rows)
    return rows.view(batch.rows, *values.shape[1:])


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, starts: Tensor, rows: int) -> Tensor:
        ctx.starts, ctx.shape = starts, values.shape
        out = values.new_empty(rows, values.shape[1])
        sides.spread(array(values), array(starts), array(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        out = gradient.new_empty(ctx.shape)
        sides.sum_rows(array(gradient), array(ctx.starts), array(out))
        return out, None, None


# --- losses -------------------------------------------------------------------------------------------------------


def pointwise(logits: Tensor, clicked: Tensor, batch: Batch) -> Tensor:
    """Sum over rows of their binary cross-entropy. (B,) -> ()"""
    if has_kernels(logits):
        loss: Tensor = _Loss.apply(logits, clicked, batch.starts, sides.pointwise)
        return loss
    return functional.binary_cross_entropy_with_logits(logits, clicked, reduction="sum")


def listwise(logits: Tensor, clicked: Tensor, batch: Batch) -> Tensor:
    """Sum over displays of -log softmax of the click among its rows. (B,) -> ()"""
    if has_kernels(logits):
        loss: Tensor = _Loss.apply(logits, clicked, batch.starts, sides.listwise)
        return loss
    display = batch.display_of
    top = logits.new_full((batch.displays,), -torch.inf).scatter_reduce(0, display, logits.detach(), "amax")
    total = logits.new_zeros(batch.displays).index_add(0, display, torch.exp(logits - top[display]))
    return (total.log() + top).sum() - (logits * clicked).sum()


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, clicked: Tensor, starts: Tensor, kernel: Any) -> Tensor:
        ctx.gradient = logits.new_empty(logits.shape)
        loss = kernel(*(array(x) for x in (logits, clicked, starts, ctx.gradient)))
        return logits.new_tensor(np.float64(loss))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * scale, None, None, None
