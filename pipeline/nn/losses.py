"""The two losses: of each impression by itself, and of each display as a whole."""

from __future__ import annotations

from torch import Tensor

from pipeline.nn import functions
from pipeline.nn.batches import Batch


def pointwise(logits: Tensor, batch: Batch) -> Tensor:
    """Mean binary cross-entropy of the impressions. (B,) -> ()"""
    assert batch.clicked is not None
    return functions.pointwise(logits, batch.clicked, batch) / batch.rows


def listwise(logits: Tensor, batch: Batch) -> Tensor:
    """Mean over displays of -log softmax of the click among its ads: exactly one is clicked. (B,) -> ()"""
    assert batch.clicked is not None
    return functions.listwise(logits, batch.clicked, batch) / batch.displays


LOSSES = {"pointwise": pointwise, "listwise": listwise}


def share(loss: str, piece: Batch, whole: Batch) -> float:
    """The weight of a piece's mean in the mean over the whole batch."""
    return piece.displays / whole.displays if loss == "listwise" else piece.rows / whole.rows
