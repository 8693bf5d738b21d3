"""Differentiable operations between displays and their rows: compiled loops on a CPU, torch's operations elsewhere.

Shapes as in `kernels`, `sides` and `layers`; the batch tells which rows belong to which display.
"""

from __future__ import annotations

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
    both = functional.embedding(values.codes, table.detach())  # (n, F, 1 + E)
    if fields > categorical:
        bags = functional.embedding_bag(
            values.bag_ids,
            table.detach(),
            values.bag_offsets[:, :-1].flatten().to(values.bag_ids.dtype),  # the bags lie field behind field
            mode="sum",
            per_sample_weights=values.bag_weights.to(table.dtype),
        )
        both = torch.cat([both, bags.view(-1, n, 1 + size).transpose(0, 1)], dim=1)
    weights.copy_(both[:, :, 0])
    embeddings.copy_(both[:, :, 1:])
    return weights, embeddings


# --- spread -------------------------------------------------------------------------------------------------------


def spread(values: Tensor, batch: Batch) -> Tensor:
    """Give each row what its display has. (D, ...) -> (B, ...)"""
    if not has_kernels(values):
        return values.index_select(0, batch.display_of)
    rows: Tensor = _Spread.apply(values.reshape(len(values), -1), batch.starts, batch.rows)
    return rows.view(batch.rows, *values.shape[1:])


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, starts: Tensor, rows: int) -> Tensor:
        ctx.starts = starts
        return spread_rows(values, starts, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return sum_rows(gradient, ctx.starts), None, None


def spread_rows(values: Tensor, starts: Tensor, rows: int) -> Tensor:
    """As `spread`, outside of autograd. (D, H) -> (B, H)"""
    if not has_kernels(values):
        return values.repeat_interleave(starts.diff(), dim=0, output_size=rows)
    out = values.new_empty(rows, values.shape[1])
    sides.spread(array(values), array(starts), array(out))
    return out


def sum_rows(values: Tensor, starts: Tensor) -> Tensor:
    """Sum over the rows of each display, outside of autograd. (B, H) -> (D, H)"""
    if not has_kernels(values):
        display = torch.repeat_interleave(starts.diff())
        return values.new_zeros(len(starts) - 1, values.shape[1]).index_add(0, display, values)
    out = values.new_empty(len(starts) - 1, values.shape[1])
    sides.sum_rows(array(values), array(starts), array(out))
    return out


# --- the first layer ----------------------------------------------------------------------------------------------


def shared_linear(
    display: Tensor, impression: Tensor, of_display: Tensor, of_impression: Tensor, bias: Tensor | None, batch: Batch
) -> Tensor:
    """[display, impression] W^T + b of each row, W = [of_display, of_impression]. (D, P), (B, Q) -> (B, H)"""
    if torch.is_autocast_enabled(display.device.type):
        shared = functional.linear(display, of_display, bias)
        return spread(shared, batch) + functional.linear(impression, of_impression)
    out: Tensor = _SharedLinear.apply(display, impression, of_display, of_impression, bias, batch.starts)
    return out


class _SharedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        display: Tensor,
        impression: Tensor,
        w_display: Tensor,
        w_own: Tensor,
        bias: Tensor | None,
        starts: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(display, impression, w_display, w_own)
        ctx.starts = starts
        out = spread_rows(functional.linear(display, w_display, bias), starts, len(impression))
        return out.addmm_(impression, w_own.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        display, impression, w_display, w_own = ctx.saved_tensors
        shared = sum_rows(gradient, ctx.starts)
        needs = ctx.needs_input_grad
        return (
            shared @ w_display if needs[0] else None,
            gradient @ w_own if needs[1] else None,
            shared.t() @ display if needs[2] else None,
            gradient.t() @ impression if needs[3] else None,
            shared.sum(0) if needs[4] else None,
            None,
        )


# --- sums of weights ----------------------------------------------------------------------------------------------


def sum_weights(display: Tensor, impression: Tensor, batch: Batch) -> Tensor:
    """Sum over all fields of a row. (D, Gd), (B, Gi) -> (B,)"""
    if not has_kernels(impression):
        return spread(display.sum(1), batch) + impression.sum(1)
    out: Tensor = _SumWeights.apply(display, impression, batch.starts)
    return out


class _SumWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, display: Tensor, impression: Tensor, starts: Tensor) -> Tensor:
        out = impression.new_empty(len(impression))
        sides.sum_weights(*(array(x) for x in (display, impression, starts, out)))
        ctx.shapes, ctx.starts = (display.shape, impression.shape), starts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Each weight has the gradient of its row, or of all rows of its display."""
        display, impression = ctx.shapes
        shared = sum_rows(gradient.unsqueeze(1), ctx.starts)
        return shared.expand(display), gradient.unsqueeze(1).expand(impression), None


# --- all pairs ----------------------------------------------------------------------------------------------------


def fm(display: Tensor, impression: Tensor, batch: Batch) -> Tensor:
    """Sum over pairs of <e_i, e_j> over the fields of a row. (D, Gd, E), (B, Gi, E) -> (B,)"""
    if not has_kernels(impression):
        total = spread(display.sum(1), batch) + impression.sum(1)
        squares = spread(display.square().sum((1, 2)), batch) + impression.square().sum((1, 2))
        return 0.5 * (total.square().sum(1) - squares)
    out: Tensor = _FM.apply(display, impression, batch.starts)
    return out


class _FM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, display: Tensor, impression: Tensor, starts: Tensor) -> Tensor:
        totals = impression.new_empty(len(impression), impression.shape[2])
        out = impression.new_empty(len(impression))
        lanes = (0,) * impression.shape[2]
        sides.fm(*(array(x) for x in (display, impression, starts)), lanes, array(totals), array(out))
        ctx.save_for_backward(display, impression, totals)
        ctx.starts = starts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        display, impression, totals = ctx.saved_tensors
        of = display.new_empty(display.shape), impression.new_empty(impression.shape)
        read = (array(x) for x in (gradient, display, impression, ctx.starts))
        sides.fm_gradient(*read, (0,) * impression.shape[2], array(totals), *(array(x) for x in of))
        return *of, None


# --- losses -------------------------------------------------------------------------------------------------------


def listwise(logits: Tensor, clicked: Tensor, batch: Batch) -> Tensor:
    """Sum over displays of -log softmax of the click among its rows. (B,) -> ()"""
    if has_kernels(logits):
        loss: Tensor = _Listwise.apply(logits, clicked, batch.starts)
        return loss
    display = batch.display_of
    top = logits.new_full((batch.displays,), -torch.inf).scatter_reduce(0, display, logits.detach(), "amax")
    total = logits.new_zeros(batch.displays).index_add(0, display, torch.exp(logits - top[display]))
    return (total.log() + top).sum() - (logits * clicked).sum()


class _Listwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, clicked: Tensor, starts: Tensor) -> Tensor:
        gradient = logits.new_empty(logits.shape)
        loss = sides.listwise(*(array(x) for x in (logits, clicked, starts, gradient)))
        ctx.save_for_backward(gradient)
        return logits.new_tensor(np.float64(loss))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None
