"""Dropout that draws the same numbers on any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
        kept = random_bits(x, draw_seed()) >= int(self.rate * 2**32)
        return x * kept * (1 / (1 - self.rate))


def random_bits(like: Tensor, seed: int) -> Tensor:
    """The 32 bits that activations.rectify draws for each number of a tensor, by torch's operations. int64"""
    low = (1 << 32) - 1
    x = torch.arange(like.numel(), device=like.device).view(like.shape) ^ seed
    x = (x ^ (x >> 16)) * 0x7FEB352D & low
    x = (x ^ (x >> 15)) * 0x846CA68B & low
    return x ^ (x >> 16)


def draw_seed() -> int:
    """Of what a compiled loop draws at random."""
    return int(torch.randint(1 << 32, (), generator=getattr(_drawing, "generator", None)))


def bounded(seed: int) -> int:
    """As torch takes it: below 2^64."""
    return seed % (1 << 64)


_drawing = threading.local()


@contextmanager
def random_numbers(seed: int) -> Iterator[None]:
    """Let all layers draw from this seed, of whatever size, in this thread; on the CPU, wherever the network is."""
    _drawing.generator = torch.Generator().manual_seed(bounded(seed))
    try:
        yield
    finally:
        del _drawing.generator
