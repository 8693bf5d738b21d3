"""What a network's layers hand to each other, by display and by impression, and its logit: a sum of terms.

    self.linear(x) + fm(x.embeddings) + self.mlp(x.inputs)

is a `Logit`, whose `value` is computed on a CPU by a few compiled passes as one differentiable operation: of what
several terms read, such as the embeddings, one gradient is made, and threads seldom meet at Python's lock.

Shapes: D displays with B rows, G fields with embeddings, K numbers, E embedding size; `Sides` hold (D, ...) of the
fields of displays and (B, ...) of those of impressions. In rows, fields of displays come first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.nn import passes, towers
from pipeline.nn.batches import Batch
from pipeline.nn.functions import array, spread
from pipeline.nn.norms import NORM_EPSILON, Norm

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sides:
    """Something that the fields of displays have (D, Gd, ...) and those of impressions have (B, Gi, ...)."""

    display: Tensor
    impression: Tensor
    batch: Batch

    def rows(self) -> Tensor:
        """As if every row had all fields by itself. (B, Gd + Gi, ...)"""
        return torch.cat([spread(self.display, self.batch), self.impression], dim=1)

    def map(self, function: Callable[[Tensor], Tensor]) -> Sides:
        """Apply to either side what treats all items alike, such as a norm of each embedding."""
        return Sides(function(self.display), function(self.impression), self.batch)


@dataclass(frozen=True, slots=True)
class Joined:
    """The inputs of a deep part: embeddings (n, G, E), after a norm if there is one, and behind them numbers (n, K).

    Numbers have no gradient.
    """

    embeddings: Sides
    numbers: Sides
    norm: Norm | None = None

    def sides(self) -> Sides:
        """As plain vectors of either side. (n, G * E + K)"""

        def flat(e: Tensor, x: Tensor) -> Tensor:
            return torch.cat([e.flatten(1), x], dim=1) if x.shape[1] else e.flatten(1)

        e, x = self.embeddings.map(self.norm) if self.norm else self.embeddings, self.numbers
        return Sides(flat(e.display, x.display), flat(e.impression, x.impression), e.batch)

    def rows(self) -> Tensor:
        """As plain vectors of rows. (B, ...)"""
        return self.sides().rows()


@dataclass(frozen=True, slots=True)
class LinearTerm:
    """b + sum of w_i + <v, numbers>. bias: (). display, impression: v, (Kd,) and (Ki,)."""

    weights: Sides
    numbers: Sides
    bias: Tensor
    display: Tensor
    impression: Tensor


@dataclass(frozen=True, slots=True)
class DeepTerm:
    """An MLP. parameters: of the first layer (H, P), (H, Q), (H,), then a matrix and a bias for each layer, and (1, H)
    of the logit.
    """

    inputs: Joined
    parameters: Sequence[Tensor]
    between: passes.Between


@dataclass(frozen=True, slots=True)
class Logit:
    """A sum of terms, each (B,). On a CPU those with names have compiled loops; elsewhere all are tensors.

    pairs: of these embeddings the sum over pairs of <e_i, e_j>.
    """

    linear: LinearTerm | None = None
    pairs: Sides | None = None
    deep: DeepTerm | None = None
    tensors: tuple[Tensor, ...] = ()

    def __add__(self, other: Logit | Tensor) -> Logit:
        """Raises TypeError for two terms of a kind."""
        added = Logit(tensors=(other,)) if isinstance(other, Tensor) else other
        named = [(getattr(self, name), getattr(added, name)) for name in ("linear", "pairs", "deep")]
        if any(a is not None and b is not None for a, b in named):
            raise TypeError("a logit has at most one linear term, one sum over pairs and one MLP")
        return Logit(*(b if a is None else a for a, b in named), tensors=(*self.tensors, *added.tensors))

    def value(self) -> Tensor:
        """(B,)"""
        tensors = list(self.tensors)
        if self.linear or self.pairs or self.deep:
            towers = Towers(self)
            tensors.append(_Value.apply(towers, *towers.reads))
        return sum(tensors[1:], tensors[0])

    def towers(self) -> Towers | None:
        """What learns without autograd, if all terms have compiled loops."""
        return None if self.tensors else Towers(self)


# --- on a CPU -----------------------------------------------------------------------------------------------------


class Towers:
    """The named terms of a logit as compiled loops read them. reads: what they have gradients of."""

    def __init__(self, logit: Logit) -> None:
        linear, deep = logit.linear, logit.deep
        embeddings = deep.inputs.embeddings if deep else logit.pairs
        if logit.pairs not in (None, embeddings):
            raise TypeError("pairs: expected the embeddings that the MLP reads")
        every = [sides for sides in (embeddings, linear.weights if linear else None) if sides]
        self.batch, like = every[0].batch, every[0].impression
        nothing = Sides(like.new_empty(self.batch.displays, 0), like.new_empty(self.batch.rows, 0), self.batch)
        none = like.new_empty(0)
        weights, linear_numbers = (linear.weights, linear.numbers) if linear else (nothing, nothing)
        embeddings = embeddings or Sides(nothing.display.unsqueeze(2), nothing.impression.unsqueeze(2), self.batch)
        numbers = deep.inputs.numbers if deep else nothing
        of_linear = (linear.bias, linear.display, linear.impression) if linear else (none.new_empty(1), none, none)
        self.parameters = deep.parameters if deep else ()
        self.reads = (weights.display, weights.impression, embeddings.display, embeddings.impression, *of_linear)
        self.reads += tuple(self.parameters)

        def side(of: Callable[[Sides], Tensor]) -> towers.Side:
            return towers.Side(*(array(of(sides)) for sides in (weights, linear_numbers, embeddings, numbers)))

        self.given = (
            side(lambda sides: sides.display),
            side(lambda sides: sides.impression),
            array(self.batch.starts),
        )
        bias, *of_numbers = map(array, of_linear)
        self.terms = towers.Terms(
            towers.Linear(linear is not None, bias.reshape(1), *of_numbers),
            logit.pairs is not None,
            _deep(deep, none),
        )
        self.lanes = (0,) * embeddings.impression.shape[2]

    def learn(self, loss: str, weight: float) -> tuple[Tensor, dict[int, Tensor]]:
        """The batch's loss times the weight, and the gradients of what is read, by the tensors' ids."""
        assert self.batch.clicked is not None
        listwise = loss == "listwise"
        weight /= self.batch.displays if listwise else self.batch.rows
        arguments = array(self.batch.clicked), self.terms, self.lanes, listwise, weight
        value, found = towers.learn(*self.given, *arguments)
        return torch.tensor(value), dict(zip(map(id, self.reads), self._gradients(found), strict=True))

    def forward(self, keep: bool) -> tuple[Array, towers.Kept]:
        return towers.forward(*self.given, self.terms, self.lanes, keep)

    def backward(self, of_logits: Array, kept: towers.Kept) -> list[Tensor]:
        return self._gradients(towers.backward(of_logits, *self.given, self.terms, self.lanes, kept))

    def _gradients(self, found: towers.Gradients) -> list[Tensor]:
        """Of what is read."""
        display, impression, *others, deep = (torch.from_numpy(gradient) for gradient in found)
        display, impression = (
            of.unsqueeze(1).expand(read.shape) for of, read in zip((display, impression), self.reads, strict=False)
        )
        of_parameters = deep.split([parameter.numel() for parameter in self.parameters]) if self.parameters else ()
        every = [display, impression, *others, *of_parameters]
        return every[:2] + [of.view(read.shape) for of, read in zip(every[2:], self.reads[2:], strict=True)]


def _deep(deep: DeepTerm | None, none: Tensor) -> towers.Deep:
    if deep is None:
        between = passes.Between(False, False, NORM_EPSILON, 0.0, np.empty(0, np.int64))
        return towers.Deep(False, array(none), np.empty(0, np.int64), between, towers.Norm(False, False, NORM_EPSILON))
    w, norm = deep.parameters, deep.inputs.norm
    sizes = np.array([w[0].shape[1], w[1].shape[1], *(len(bias) for bias in w[2:-1:2])], np.int64)
    flat = array(torch.cat([parameter.detach().flatten() for parameter in w]))
    of = towers.Norm(norm is not None, bool(norm and norm.name == "layer"), norm.epsilon if norm else NORM_EPSILON)
    return towers.Deep(True, flat, sizes, deep.between, of)


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, towers: Towers, *reads: Tensor) -> Tensor:
        ctx.towers = towers
        logits, ctx.kept = towers.forward(any(ctx.needs_input_grad))
        return torch.from_numpy(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logits: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.towers.backward(array(of_logits), ctx.kept)
