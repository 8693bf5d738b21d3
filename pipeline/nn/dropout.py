"""Dropout that draws the same numbers on any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.nn import perceptrons


class Dropout(nn.Module):
    """Like torch.nn.Dropout, but drawn from the random numbers of the piece of a batch that a thread works on.

    torch's own would draw from one generator for all threads, in an order that nobody knows. The same is dropped as by
    activations.rectify.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        kept = perceptrons.random_bits(x, draw_seed()) >= int(self.rate * 2**32)
        return x * (kept / (1 - self.rate))


def draw_seed() -> int:
    """Of what a compiled loop draws at random."""
    return int(torch.randint(1 << 32, (), generator=getattr(_drawing, "generator", None)))


_drawing = threading.local()


@contextmanager
def random_numbers(generator: torch.Generator) -> Iterator[None]:
    """Let all layers draw from this generator, in this thread."""
    _drawing.generator = generator
    try:
        yield
    finally:
        del _drawing.generator
