"""The recurrent unit against torch's own, its gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.collaborative.gru import Steps, gru, last_states

LENGTHS = np.array([3, 0, 5, 1, 5])


def cell(size: int, hidden: int) -> nn.GRUCell:
    torch.manual_seed(1)
    return nn.GRUCell(size, hidden)


def test_steps_hold_each_element_once_the_longest_sequence_first() -> None:
    steps = Steps.of(LENGTHS)
    assert steps.sizes == [4, 3, 3, 2, 2]
    assert steps.row.tolist() == [2, 4, 0, 3, 2, 4, 0, 2, 4, 0, 2, 4, 2, 4]
    assert steps.step.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    assert Steps.of(np.zeros(3, np.int64)).sizes == []


def test_the_states_are_those_of_torch_and_depend_on_the_past_alone() -> None:
    recurrent, steps = cell(4, 6), Steps.of(LENGTHS)
    elements = torch.randn(len(LENGTHS), 5, 4)
    x = nn.functional.linear(elements, recurrent.weight_ih, recurrent.bias_ih)[steps.row, steps.step]
    states = gru(x, recurrent, steps.sizes)
    for row, length in enumerate(LENGTHS):
        h = torch.zeros(1, 6)
        for t in range(length):
            h = recurrent(elements[row, t][None], h)
            found = states[(steps.row == row) & (steps.step == t)]
            torch.testing.assert_close(found, h, rtol=1e-5, atol=1e-6)
    later = torch.from_numpy(steps.step >= 2)
    x = torch.where(later[:, None], torch.randn(x.shape), x)
    changed = gru(x, recurrent, steps.sizes)
    torch.testing.assert_close(changed[~later], states[~later], rtol=0, atol=0)
    assert (changed[later] != states[later]).any(dim=1).all()


def test_gradients_are_those_of_differences() -> None:
    recurrent, steps = cell(3, 2).double(), Steps.of(LENGTHS)
    x = torch.randn(len(steps.row), 6, dtype=torch.float64, requires_grad=True)

    def states(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(
            _States(recurrent, steps.sizes), {"recurrent.weight_hh": weight, "recurrent.bias_hh": bias}, (x,)
        )

    assert torch.autograd.gradcheck(states, (x, recurrent.weight_hh, recurrent.bias_hh))


class _States(nn.Module):
    def __init__(self, recurrent: nn.GRUCell, sizes: list[int]) -> None:
        super().__init__()
        self.recurrent, self.sizes = recurrent, sizes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return gru(x, self.recurrent, self.sizes)


@pytest.mark.parametrize("rows", [1, 40, 700])
def test_last_states(rows: int) -> None:
    recurrent, random = cell(4, 6), np.random.default_rng(2)
    x = torch.randn(30, 18)
    sequence, lengths = random.integers(0, 30, (rows, 5)), random.integers(1, 6, rows)
    found = last_states(x, sequence, lengths, recurrent)
    steps = Steps.of(lengths)
    states = gru(x[sequence[steps.row, steps.step]], recurrent, steps.sizes).detach().numpy()
    last = steps.step == lengths[steps.row] - 1
    np.testing.assert_allclose(found[steps.row[last]], states[last], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(last_states(x, sequence[::-1], lengths[::-1], recurrent), found[::-1])
