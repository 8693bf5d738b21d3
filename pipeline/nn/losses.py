"""The two losses: of each impression by itself, and of each display as a whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.nn.batches import Batch


def pointwise(logits: Tensor, batch: Batch) -> Tensor:
    """Mean binary cross-entropy of the impressions. (B,) -> ()"""
    assert batch.clicked is not None
    return functional.binary_cross_entropy_with_logits(logits, batch.clicked)


def listwise(logits: Tensor, batch: Batch) -> Tensor:
    """Mean over displays of -log softmax of the click among its ads: exactly one is clicked. (B,) -> ()"""
    assert batch.clicked is not None
    top = logits.new_full((batch.displays,), -torch.inf).scatter_reduce(0, batch.display, logits.detach(), "amax")
    total = logits.new_zeros(batch.displays).index_add(0, batch.display, torch.exp(logits - top[batch.display]))
    log_partition = total.log() + top
    return (log_partition.sum() - (logits * batch.clicked).sum()) / batch.displays


LOSSES = {"pointwise": pointwise, "listwise": listwise}
