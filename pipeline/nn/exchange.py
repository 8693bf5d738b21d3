"""What the processes that train one network tell each other (gloo, so over a network, too): sums and rows of tables.

All of them read the same batches; each computes some of a batch's pieces. Then all have the gradients of all pieces,
and take the same step: their networks stay equal, to the last bit.
"""

from __future__ import annotations

import atexit

import torch
from torch import Tensor, distributed

from pipeline.core import processes


def _join() -> None:
    """Meet the other processes, once."""
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
        atexit.register(distributed.destroy_process_group)


def add(values: Tensor) -> Tensor:
    """The sum over all processes. What only one of them has, the others having 0, comes out as it was."""
    total = values.cpu()
    if processes.count() > 1:
        _join()
        distributed.all_reduce(total)
    return total.to(values.device)


def gather_rows(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The sums by id of the rows of all processes, in their order. (s,), (s, W) -> (S,), (S, W), each id once."""
    _join()
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(processes.count())]
    distributed.all_gather(lengths, torch.tensor([len(ids)]))
    counts = [int(length) for length in lengths]

    def gathered(values: Tensor) -> Tensor:
        padded = torch.zeros(max(counts), *values.shape[1:], dtype=values.dtype)
        padded[: len(values)] = values
        found = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(found, padded)
        return torch.cat([piece[:count] for piece, count in zip(found, counts, strict=True)])

    every = gathered(rows.cpu())
    unique, position = torch.unique(gathered(ids.cpu().long()), return_inverse=True)
    sums = every.new_zeros(len(unique), every.shape[1]).index_add(0, position, every)
    return unique.to(ids.device), sums.to(rows.device)
