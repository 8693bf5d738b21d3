"""Both losses against loops over displays and rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.nn.batches import Batch, Values
from pipeline.nn.losses import LOSSES, listwise, pointwise

LENGTHS = [1, 3, 2, 6]
CLICKS = [0, 2, 0, 5]  # the clicked ad of each display


def make_batch() -> Batch:
    clicked = [float(i == click) for length, click in zip(LENGTHS, CLICKS, strict=True) for i in range(length)]
    nothing = torch.empty(0)
    values = Values(nothing, nothing, nothing, nothing, nothing)
    starts = torch.tensor([0, *LENGTHS]).cumsum(0)
    rows = replace(values, codes=torch.empty(sum(LENGTHS), 0))
    return Batch(display=values, impression=rows, starts=starts, clicked=torch.tensor(clicked, dtype=torch.float64))


def logits(scale: float = 2.0) -> Tensor:
    return scale * torch.randn(sum(LENGTHS), dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def naive_listwise(x: list[float]) -> float:
    total, start = 0.0, 0
    for length, click in zip(LENGTHS, CLICKS, strict=True):
        own = x[start : start + length]
        total -= own[click] - math.log(sum(math.exp(value) for value in own))
        start += length
    return total / len(LENGTHS)


def naive_pointwise(x: list[float], clicked: list[float]) -> float:
    p = [1 / (1 + math.exp(-value)) for value in x]
    return -sum(math.log(q if y else 1 - q) for q, y in zip(p, clicked, strict=True)) / len(x)


def test_listwise() -> None:
    x = logits()
    assert float(listwise(x, make_batch())) == pytest.approx(naive_listwise(x.tolist()), rel=1e-10)


def test_pointwise() -> None:
    x, batch = logits(), make_batch()
    assert float(pointwise(x, batch)) == pytest.approx(naive_pointwise(x.tolist(), batch.clicked.tolist()), rel=1e-10)


def test_chance() -> None:
    zero = torch.zeros(sum(LENGTHS), dtype=torch.float64)
    assert float(listwise(zero, make_batch())) == pytest.approx(sum(map(math.log, LENGTHS)) / len(LENGTHS))
    assert float(pointwise(zero, make_batch())) == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients(name: str) -> None:
    batch = make_batch()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, batch), (logits().requires_grad_(),))


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_extreme_logits_stay_finite(name: str, scale: float) -> None:
    x = logits(scale).float().requires_grad_()
    loss = LOSSES[name](x, make_batch_of_floats())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


def make_batch_of_floats() -> Batch:
    batch = make_batch()
    batch.clicked = batch.clicked.float()
    return batch


def test_listwise_ignores_what_displays_share() -> None:
    """A constant added to all ads of a display changes nothing, and its gradient sums to 0 within each display."""
    batch, x = make_batch(), logits().requires_grad_()
    shift = torch.tensor([3.0, -50.0, 0.5, 700.0], dtype=torch.float64)[batch.display_of]
    loss = listwise(x, batch)
    torch.testing.assert_close(listwise(x + shift, batch), loss)
    loss.backward()
    sums = torch.zeros(len(LENGTHS), dtype=torch.float64).index_add(0, batch.display_of, x.grad)
    torch.testing.assert_close(sums, torch.zeros_like(sums), atol=1e-12, rtol=0)
