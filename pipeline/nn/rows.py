"""The optimiser of embedding tables: a step changes the rows that a batch read, and no others.

Adam (Kingma and Ba 2015, algorithm 1) goes as far as if every step changed the whole table. In the n - 1 steps in which
a row is not read its gradient is 0: both moments decay, by beta^n until it is read again, and its momentum still moves
it on, in all (1 - r^n) / (1 - r) times as far as its first step, r = beta1 / sqrt(beta2). Here a row goes all that way
at once, its next gap n taken to be as long as its last. (torch.optim.SparseAdam, whose moments stand still, moves a
rare row a tenth as far.) AdaGrad: Duchi et al. 2011; where its sums of squares begin above 0 (libffm: at 1), a row that
is seldom read is moved little, by about its gradients, and only one that is read often by steps of their own size.
Either is given a batch's whole gradient of an id at once; a step for each occurrence would go many times too far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core import processes
from pipeline.nn import exchange, kernels
from pipeline.nn.batches import Side
from pipeline.nn.functions import array, has_kernels
from pipeline.nn.layers import FieldEmbedding, Read
from pipeline.nn.threads import Threads

Kind = Literal["adam", "adagrad"]
BETAS = 0.9, 0.999
EPSILON = {"adam": 1e-8, "adagrad": 1e-10}  # torch's own
_MOMENTS = {"adam": 2, "adagrad": 1}


@dataclass(frozen=True, slots=True)
class Gradient:
    """Of what was read, for each time that it was read: weights (n, G), embeddings (n, G, E)."""

    read: Read
    weights: Tensor
    embeddings: Tensor


class RowOptimizer:
    """Changes one table from the gradients of what was read of it.

    start: where AdaGrad's sums of squares begin, 0 or more; Adam's moments begin at 0.
    """

    def __init__(self, table: FieldEmbedding, kind: Kind, rate: float, threads: Threads, start: float = 0.0) -> None:
        self.weight, self.kind, self.rate, self.threads = table.weight, kind, rate, threads
        self.start = start if kind == "adagrad" else 0.0
        self.state = torch.zeros_like(self.weight).unsqueeze(1).repeat(1, _MOMENTS[kind], 1)  # (N, moments, 1 + E)
        self.state += self.start
        self.last = torch.zeros(len(self.weight), dtype=torch.int32, device=self.weight.device)  # step, when last read
        self.steps = 0
        if has_kernels(self.weight):
            self._slot = np.full(len(self.weight), -1, np.int32)
            self._shares = [_Share(fields) for fields in _deal(table, threads.count)]

    def step(self, gradients: Sequence[Gradient], decay: float) -> None:
        """decay: the loss has, for each value read, decay / 2 times its square beside what the gradients are of."""
        self.steps += 1
        if processes.count() > 1:
            ids, sums = exchange.gather_rows(*self._add_up(gradients, decay))
            if has_kernels(self.weight):
                self._apply(array(ids), array(sums))
            else:
                self._apply_by_torch(ids, sums)
        elif has_kernels(self.weight):
            self._step_by_kernels([GradientArrays.of(gradient) for gradient in gradients], decay)
        else:
            self._apply_by_torch(*add_up(gradients, decay))

    def step_of_arrays(self, gradients: Sequence[GradientArrays], decay: float) -> None:
        """The same, on a CPU and in a single process."""
        self.steps += 1
        self._step_by_kernels(gradients, decay)

    def _step_by_kernels(self, gradients: Sequence[GradientArrays], decay: float) -> None:
        self.threads.run([partial(self._step, share, gradients, decay) for share in self._shares])

    def _add_up(self, gradients: Sequence[Gradient], decay: float) -> tuple[Tensor, Tensor]:
        """As the function of this name, of the pieces of this process, which may be none."""
        if gradients:
            return add_up(gradients, decay)
        return torch.zeros(0, dtype=torch.int64, device=self.weight.device), self.weight.detach()[:0]

    def _step(self, share: _Share, gradients: Sequence[GradientArrays], decay: float) -> None:
        self._apply(*share.add_up(gradients, decay, self._slot))

    def _apply(self, ids: NDArray[Any], sums: NDArray[Any]) -> None:
        table = array(self.weight)
        number = table.dtype.type
        lanes = (0,) * table.shape[1]
        memory = ids, sums, table, array(self.state), self._slot, lanes, number(self._rate())
        if self.kind == "adam":
            times = array(self.last), self.steps
            kernels.adam(*memory, *times, number(BETAS[0]), number(BETAS[1]), number(EPSILON["adam"]))
        else:
            kernels.adagrad(*memory, number(EPSILON["adagrad"]))

    def _rate(self) -> float:
        """With Adam's corrections of both moments, which start at 0."""
        if self.kind == "adagrad":
            return self.rate
        first, second = (1 - beta**self.steps for beta in BETAS)
        return float(self.rate * np.sqrt(second) / first)

    def _apply_by_torch(self, ids: Tensor, sums: Tensor) -> None:
        state = self.state[ids]
        if self.kind == "adam":
            gap = (self.steps - self.last[ids]).to(sums.dtype).unsqueeze(1)
            ratio = BETAS[0] / BETAS[1] ** 0.5
            state[:, 0] = BETAS[0] ** gap * state[:, 0] + (1 - BETAS[0]) * sums
            state[:, 1] = BETAS[1] ** gap * state[:, 1] + (1 - BETAS[1]) * sums.square()
            reach = (1 - ratio**gap) / (1 - ratio)
            change = reach * state[:, 0] / (state[:, 1].sqrt() + EPSILON["adam"])
            self.last[ids] = self.steps
        else:
            state[:, 0] += sums.square()
            change = sums / (state[:, 0].sqrt() + EPSILON["adagrad"])
        self.state[ids] = state
        self.weight[ids] -= self._rate() * change

    def squares(self) -> Tensor:
        """Of the gradients of each row (N, 1 + E), as the optimiser adds them up: more of what is read often."""
        return self.state[:, -1] - self.start

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state, "last": self.last, "steps": self.steps}

    def load_state_dict(self, contents: dict[str, Any]) -> None:
        self.state.copy_(contents["state"])
        self.last.copy_(contents["last"])
        self.steps = contents["steps"]


# --- on any device ------------------------------------------------------------------------------------------------


def add_up(gradients: Sequence[Gradient], decay: float) -> tuple[Tensor, Tensor]:
    """The ids that were read (S,), each once, and the gradients of their rows (S, 1 + E), by torch's operations."""
    ids, rows = [], []
    for g in gradients:
        values, n = g.read.values, len(g.read.weights)
        item = torch.cat([g.read.weights.detach().unsqueeze(2), g.read.embeddings.detach()], dim=2)  # (n, G, 1 + E)
        row = torch.cat([g.weights.unsqueeze(2), g.embeddings], dim=2) + decay * g.read.repeats.view(n, 1, 1) * item
        of_codes, of_bags = row.split([values.codes.shape[1], len(values.bag_offsets)], dim=1)
        ids.append(values.codes.flatten())
        rows.append(of_codes.flatten(0, 1))
        for of_bag, offsets in zip(of_bags.unbind(1), values.bag_offsets, strict=True):
            inside = slice(int(offsets[0]), int(offsets[-1]))
            ids.append(values.bag_ids[inside])
            rows.append(of_bag.repeat_interleave(offsets.diff(), dim=0) * values.bag_weights[inside].unsqueeze(1))
    unique, position = torch.unique(torch.cat(ids).long(), return_inverse=True)
    every = torch.cat(rows)
    return unique, every.new_zeros(len(unique), every.shape[1]).index_add(0, position, every)


# --- on a CPU -----------------------------------------------------------------------------------------------------

#: Columns of the codes and bags of a side, by `Side.per`.
_Fields = dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]]


def _deal(table: FieldEmbedding, shares: int) -> list[_Fields]:
    """Deal the fields evenly to threads: fields have no ids in common, so the threads never meet."""
    sides = table.inputs.display, table.inputs.impression
    cost = {"display": 1, "impression": 5}  # there are about five times as many rows as displays
    fields = [
        (cost[side.per] * (1 + 2 * bag), side.per, bag, column) for side in sides for bag, column in _columns(side)
    ]
    loads, dealt = [0] * shares, [list[tuple[str, int, int]]() for _ in range(shares)]
    for load, per, bag, column in sorted(fields, reverse=True):
        least = loads.index(min(loads))
        loads[least] += load
        dealt[least].append((per, bag, column))

    def chosen(own: list[tuple[str, int, int]], per: str, bag: int) -> NDArray[np.int32]:
        return np.array(sorted(c for p, b, c in own if (p, b) == (per, bag)), np.int32)

    return [{side.per: (chosen(own, side.per, 0), chosen(own, side.per, 1)) for side in sides} for own in dealt]


def _columns(side: Side) -> list[tuple[int, int]]:
    return [(0, f) for f in range(len(side.categorical))] + [(1, j) for j in range(len(side.multi))]


@dataclass(frozen=True, slots=True)
class GradientArrays:
    """A gradient as the kernels read it. codes (n, F), bag_ids, bag_weights, bag_offsets: as in batches.Values.

    repeats (n,), weights (n, G), embeddings (n, G, E): as in Read. of_weights, of_embeddings: as in Gradient.
    """

    per: str
    codes: NDArray[np.int32]
    bags: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]
    repeats: NDArray[Any]
    weights: NDArray[Any]
    embeddings: NDArray[Any]
    of_weights: NDArray[Any]
    of_embeddings: NDArray[Any]

    @classmethod
    def of(cls, gradient: Gradient) -> GradientArrays:
        """Of tensors on a CPU; shares their memory."""
        read, values = gradient.read, gradient.read.values
        return cls(
            per=read.per,
            codes=array(values.codes),
            bags=(array(values.bag_ids), array(values.bag_weights), array(values.bag_offsets)),
            repeats=array(read.repeats),
            weights=array(read.weights),
            embeddings=array(read.embeddings),
            of_weights=gradient.weights.numpy(),  # often one number for all fields of an item: never copied
            of_embeddings=array(gradient.embeddings),
        )


class _Share:
    """The fields of one thread, and room for the gradients of the ids that a batch reads of them."""

    def __init__(self, fields: _Fields) -> None:
        self.fields = fields
        self.ids = np.empty(0, np.int32)
        self.sums = np.empty((0, 0), np.float32)

    def add_up(
        self, gradients: Sequence[GradientArrays], decay: float, slot: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """As the function of this name; slot is left for the optimiser to clear."""
        self._make_room(gradients)
        count, number = 0, self.sums.dtype.type
        for g in gradients:
            columns, bags = self.fields[g.per]
            read = g.weights, g.embeddings, g.of_weights, g.of_embeddings
            memory = g.repeats, number(decay), (0,) * g.embeddings.shape[2], *read, slot, self.ids, self.sums
            if len(columns):
                count = kernels.add_codes(columns, g.codes, *memory, count)
            if len(bags):
                count = kernels.add_bags(bags, *g.bags, g.codes.shape[1], *memory, count)
        return self.ids[:count], self.sums[:count]

    def _make_room(self, gradients: Sequence[GradientArrays]) -> None:
        room = 0
        for g in gradients:
            columns, bags = self.fields[g.per]
            offsets = g.bags[2]
            room += len(g.codes) * len(columns) + int((offsets[bags, -1] - offsets[bags, 0]).sum())
        read = gradients[0].embeddings
        if room > len(self.ids) or self.sums.dtype != read.dtype:
            self.ids = np.empty(room * 5 // 4, np.int32)
            self.sums = np.zeros((len(self.ids), 1 + read.shape[2]), read.dtype)
