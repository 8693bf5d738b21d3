"""One step of training: gradients of a batch's pieces, each in a thread, then of all weights and of the rows read."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core import processes
from pipeline.nn import exchange
from pipeline.nn.adam import Adam
from pipeline.nn.batches import Batch
from pipeline.nn.dropout import draw_seed, random_numbers
from pipeline.nn.functions import array
from pipeline.nn.layers import FieldEmbedding
from pipeline.nn.losses import LOSSES, share
from pipeline.nn.network import Network
from pipeline.nn.rows import Gradient, GradientArrays, Kind, RowOptimizer
from pipeline.nn.terms import Compiled, Learned
from pipeline.nn.threads import Threads

_Gradients = tuple[Tensor, list[Tensor | None], list[Gradient]]
_Dense = tuple[Tensor, list[Tensor | None]]


class Optimizer:
    """Changes a network batch by batch: dense weights by Adam, the rows of its tables by a RowOptimizer each.

    rate, row_rate: the learning rates of either. start: see RowOptimizer. l2: of all weights and embeddings that a
    batch reads, for each row that reads them, in a loss that is a mean over displays.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: str,
        *,
        rate: float,
        row_rate: float,
        rows: Kind,
        start: float = 0.0,
        l2: float,
        threads: Threads,
    ) -> None:
        if any(isinstance(module, nn.Dropout) for module in network.modules()):
            raise TypeError("use nn.dropout.Dropout: torch's own is not repeatable on several threads")
        self.network, self.loss, self.l2, self.threads = network, loss, l2, threads
        self.dense = [p for p in network.parameters() if p.requires_grad]
        self.adam = Adam(self.dense, rate)
        tables = [module for module in network.modules() if isinstance(module, FieldEmbedding)]
        self.rows = {table: RowOptimizer(table, rows, row_rate, threads, start) for table in tables}
        self.compiled = network.train().compiled() if isinstance(network, Network) and processes.count() == 1 else None

    def step(self, batch: Batch, seed: int) -> float:
        """Learn from one batch and return its loss; `seed` decides what is drawn at random."""
        self.network.train()
        if self.compiled:
            return self._learn(self.compiled, batch, seed)
        pieces = batch.pieces(None if batch.starts.is_cpu else processes.count())
        own = range(processes.rank(), len(pieces), processes.count())
        found = self.threads.run([partial(self._gradients, pieces[i], batch, seed * 1000 + i) for i in own])
        of_pieces = [(loss, dense) for loss, dense, _ in found]
        if processes.count() > 1:
            of_pieces = self._of_all_processes(of_pieces, own, len(pieces))
        for parameter, *gradients in zip(self.dense, *(dense for _, dense in of_pieces), strict=True):
            used = [gradient for gradient in gradients if gradient is not None]
            parameter.grad = reduce(torch.add, used) if used else None
        self.adam.step()
        for table, optimizer in self.rows.items():
            of_table = [gradient for _, _, rows in found for gradient in rows if gradient.read.table is table]
            optimizer.step(of_table, decay=2 * self.l2 / batch.displays)
        return float(sum(loss for loss, _ in of_pieces))

    def _learn(self, compiled: Compiled, batch: Batch, seed: int) -> float:
        """As `step`, by compiled loops alone."""
        ((table, optimizer),) = self.rows.items()

        def seeds(piece: int) -> NDArray[np.int64]:
            if not compiled.between.drop:
                return compiled.between.seeds
            with random_numbers(seed * 1000 + piece):
                return np.array([draw_seed() for _ in compiled.between.seeds], np.int64)

        learned = compiled.learn(table.weight, batch, self.loss, seeds, self.threads)
        for parameter, gradient in zip(compiled.parameters, learned.of_parameters, strict=True):
            parameter.grad = gradient
        self.adam.step()
        optimizer.step_of_arrays(_arrays(batch, learned), decay=2 * self.l2 / batch.displays)
        return learned.loss

    def _of_all_processes(self, found: list[_Dense], own: range, count: int) -> list[_Dense]:
        """Losses and dense gradients of all pieces in their order, from those of this process."""
        sizes = [parameter.numel() for parameter in self.dense]
        device = next(self.network.parameters()).device
        flat = torch.zeros(count, 1 + sum(sizes), device=device)
        for i, (loss, dense) in zip(own, found, strict=True):
            of = [p.new_zeros(p.numel()) if g is None else g.flatten() for p, g in zip(self.dense, dense, strict=True)]
            flat[i] = torch.cat([loss.reshape(1), *of])
        return [
            (row[0], [g.view_as(p) for p, g in zip(self.dense, row[1:].split(sizes), strict=True)])
            for row in exchange.add(flat)
        ]

    def _gradients(self, piece: Batch, whole: Batch, seed: int) -> _Gradients:
        """The piece's part of the batch's loss, and its gradients."""
        device = piece.starts.device
        with torch.enable_grad(), random_numbers(seed):
            with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
                logits = self.network(piece).float()
            loss = LOSSES[self.loss](logits, piece) * share(self.loss, piece, whole)
            leaves = [leaf for read in piece.reads for leaf in (read.weights, read.embeddings)]
            found = torch.autograd.grad(loss, [*self.dense, *leaves], allow_unused=True)
        dense: list[Tensor | None] = list(found[: len(self.dense)])
        of_leaves = iter(found[len(self.dense) :])
        rows = [
            Gradient(read, *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, pair, strict=True)))
            for read, pair in zip(piece.reads, zip(of_leaves, of_leaves, strict=True), strict=True)
            for leaves in [(read.weights, read.embeddings)]
        ]
        return loss.detach(), dense, rows

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "rows": [optimizer.state_dict() for optimizer in self.rows.values()]}

    def load_state_dict(self, contents: dict[str, Any]) -> None:
        self.adam.load_state_dict(contents["adam"])
        for optimizer, state in zip(self.rows.values(), contents["rows"], strict=True):
            optimizer.load_state_dict(state)


def _arrays(batch: Batch, learned: Learned) -> list[GradientArrays]:
    """The gradients of what was read of either side."""
    of_display, of_impression = (
        GradientArrays(
            per=per,
            codes=array(values.codes),
            bags=(array(values.bag_ids), array(values.bag_weights), array(values.bag_offsets)),
            repeats=repeats,
            weights=read.weights,
            embeddings=read.embeddings,
            of_weights=np.broadcast_to(of.weights[:, np.newaxis], read.weights.shape),
            of_embeddings=of.embeddings,
        )
        for per, values, repeats, read, of in zip(
            ("display", "impression"),
            (batch.display, batch.impression),
            (np.diff(array(batch.starts)).astype(np.float32), np.ones(batch.rows, np.float32)),
            learned.read,
            learned.of,
            strict=True,
        )
    )
    return [of_display, of_impression]
