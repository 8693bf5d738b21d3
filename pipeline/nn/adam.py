"""Adam of torch, without its class: that brings torch's compiler, which takes each process two seconds to import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.adam import adam

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class Adam:
    """What torch.optim.Adam(parameters, rate, fused=True) does; parameters without a gradient stay as they are."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float) -> None:
        self.parameters, self.rate = list(parameters), rate
        self._means = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        self._steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters by their gradients, which are gone afterwards."""
        used = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        gradients = [g for p in self.parameters if (g := p.grad) is not None]
        adam(
            [self.parameters[i] for i in used],
            gradients,
            [self._means[i] for i in used],
            [self._squares[i] for i in used],
            [],
            [self._steps[i] for i in used],
            fused=True,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=self.rate,
            weight_decay=0,
            eps=_EPSILON,
            maximize=False,
        )
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"means": self._means, "squares": self._squares, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, own in self.state_dict().items():
            for mine, kept in zip(own, state[name], strict=True):
                mine.copy_(kept)
