"""Adam against torch's class, and without what that brings along."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from pipeline.nn.adam import Adam


def test_steps_are_those_of_torch() -> None:
    """Bit for bit; a parameter without a gradient stays as it is; and it goes on from what it has kept."""
    random = torch.Generator().manual_seed(1)
    starts = [torch.randn(shape, generator=random) for shape in ((3, 4), (5,), ())]
    own, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    adam, expected = Adam(own, 0.01), torch.optim.Adam(theirs, 0.01, fused=True)
    for step in range(7):
        if step == 4:
            kept, adam = adam.state_dict(), Adam(own, 0.01)
            adam.load_state_dict(kept)
        for i, (mine, other) in enumerate(zip(own, theirs, strict=True)):
            gradient = torch.randn(mine.shape, generator=random)
            mine.grad, other.grad = (None, None) if (i + step) % 3 == 0 else (gradient, gradient.clone())
        adam.step()
        expected.step()
        assert all(mine.grad is None for mine in own)
        assert all(torch.equal(mine, other) for mine, other in zip(own, theirs, strict=True))
    assert not any(torch.equal(mine, start) for mine, start in zip(own, starts, strict=True))


def test_no_compiler_is_imported() -> None:
    """Else this module would be for nothing."""
    step = "p = torch.nn.Parameter(torch.ones(2)); p.grad = torch.ones(2); Adam([p], 0.1).step()"
    tell = "print('torch._dynamo' in sys.modules)"
    code = f"import sys, torch; from pipeline.nn.adam import Adam; {step}; {tell}"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
