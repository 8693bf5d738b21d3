"""Products that do not depend on how many rows or threads there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Floats = NDArray[np.float32]

#: Rows of a product at once; always as many, since a row's rounding may depend on the number of rows.
_BLOCK = 1024


@contextmanager
def one_thread() -> Iterator[None]:
    """Products this small are faster on one thread, and then do not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_blocks(x: Floats, weights: Floats) -> Floats:
    """x @ weights (n, J), in blocks of equal size, the last one filled up with zeros."""
    result = np.empty((len(x), weights.shape[1]), np.float32)
    right = torch.from_numpy(weights)
    for start in range(0, len(x), _BLOCK):
        piece = x[start : start + _BLOCK]
        block = torch.zeros(_BLOCK, x.shape[1])
        block[: len(piece)] = torch.from_numpy(piece)
        result[start : start + _BLOCK] = (block @ right)[: len(piece)].numpy()
    return result


def bag_sums(bags: sp.csr_matrix, weights: Tensor, dropout: float = 0.0) -> Tensor:
    """bags @ weights (n, J), to learn the weights (A, J): each row of them is added as often as it is in a bag.

    dropout: the share of what is in the bags (n, A) that is left out; the rest counts for it.
    """
    ids, offsets = (torch.from_numpy(array.astype(np.int64)) for array in (bags.indices, bags.indptr))
    counts = functional.dropout(torch.from_numpy(bags.data), dropout)
    return functional.embedding_bag(
        ids, weights, offsets, mode="sum", per_sample_weights=counts, include_last_offset=True
    )
