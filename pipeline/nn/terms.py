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
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.nn import passes, towers
from pipeline.nn.batches import Batch
from pipeline.nn.functions import array, spread
from pipeline.nn.norms import Norm
from pipeline.nn.threads import Threads

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)  # two are the same, or not: compared as numbers they are never
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
        if any(getattr(self, name) and getattr(added, name) for name in ("linear", "pairs", "deep")):
            raise TypeError("a logit has at most one linear term, one sum over pairs and one MLP")
        return Logit(
            linear=self.linear or added.linear,
            pairs=self.pairs or added.pairs,
            deep=self.deep or added.deep,
            tensors=(*self.tensors, *added.tensors),
        )

    def value(self) -> Tensor:
        """(B,)"""
        tensors = list(self.tensors)
        if self.linear or self.pairs or self.deep:
            given = _Given(self)
            tensors.append(_Value.apply(given, *given.reads))
        return sum(tensors[1:], tensors[0])

    def compiled(self) -> Compiled | None:
        """If all its terms have compiled loops, which read what was looked up of a batch, and its numbers."""
        if self.tensors or not (self.linear and self.deep):
            return None
        same = self.linear.numbers is self.deep.inputs.numbers
        return Compiled(self) if same and self.pairs in (None, self.deep.inputs.embeddings) else None


# --- on a CPU -----------------------------------------------------------------------------------------------------


class Compiled:
    """The named terms of a logit as compiled loops take them, of whatever batch.

    parameters: what they have gradients of, beside embeddings and weights.
    """

    def __init__(self, logit: Logit) -> None:
        self.linear, self.pairs, self.deep = logit.linear, logit.pairs is not None, logit.deep
        of_linear = (self.linear.bias, self.linear.display, self.linear.impression) if self.linear else ()
        self.parameters = [*of_linear, *(self.deep.parameters if self.deep else ())]

    @property
    def between(self) -> passes.Between:
        """What follows the hidden layers; nothing without an MLP."""
        return self.deep.between if self.deep else passes.Between(False, False, 0.0, 0.0, np.empty(0, np.int64))

    def terms(self, like: Tensor) -> towers.Terms:
        """With the parameters as they are now; like: of their type."""
        none = array(like.new_empty(0))
        if linear := self.linear:
            v = linear.display, linear.impression
            of_linear = towers.Linear(True, array(linear.bias).reshape(1), *map(array, v))
        else:
            of_linear = towers.Linear(False, array(like.new_empty(1)), none, none)
        sizes, flat, norm = np.empty(0, np.int64), none, None
        if self.deep:
            w, norm = self.deep.parameters, self.deep.inputs.norm
            sizes = np.array([w[0].shape[1], w[1].shape[1], *(len(bias) for bias in w[2:-1:2])], np.int64)
            flat = array(torch.cat([parameter.detach().flatten() for parameter in w]))
        of_norm = towers.Norm(
            norm is not None, norm is not None and norm.name == "layer", norm.epsilon if norm else 0.0
        )
        deep = towers.Deep(self.deep is not None, flat, sizes, self.between, of_norm)
        return towers.Terms(of_linear, self.pairs, deep)

    def of_parameters(self, found: towers.OfTerms) -> list[Tensor]:
        """The gradients of the parameters."""
        bias, display, impression, flat = map(torch.from_numpy, found)
        of_linear = [bias.view(()), display, impression] if self.linear else []
        if not self.deep:
            return of_linear
        shapes = [parameter.shape for parameter in self.deep.parameters]
        of_deep = flat.split([shape.numel() for shape in shapes])
        return [*of_linear, *(of.view(shape) for of, shape in zip(of_deep, shapes, strict=True))]

    def learn(
        self, table: Tensor, batch: Batch, loss: str, seeds: Callable[[int], NDArray[np.int64]], threads: Threads
    ) -> Learned:
        """The loss, a mean over the batch, and its gradients, each of the batch's pieces in a thread.

        seeds: of what is dropped from a piece, by its number.
        """
        assert batch.clicked is not None
        terms, lanes, values = self.terms(table), (0,) * (table.shape[1] - 1), _values(batch)
        display, impression = (_space(side, table) for side in values)
        of_display, of_impression = (
            towers.Gradients(np.empty(len(read.weights), read.weights.dtype), np.empty_like(read.embeddings))
            for read in (display, impression)
        )
        weight = 1 / (batch.displays if loss == "listwise" else batch.rows)
        given = array(table), values, array(batch.starts), array(batch.clicked)
        out = (display, impression), (of_display, of_impression)

        def piece(number: int, first: int, last: int) -> tuple[float, towers.OfTerms]:
            between = terms.deep.between._replace(seeds=seeds(number))
            own = terms._replace(deep=terms.deep._replace(between=between))
            return towers.learn(*given, first, last, own, lanes, loss == "listwise", weight, *out)

        found = threads.run([partial(piece, i, *ends) for i, ends in enumerate(pairwise(batch.borders()))])
        of_terms = towers.OfTerms(*(reduce(np.add, pieces) for pieces in zip(*(of for _, of in found), strict=True)))
        return Learned(sum(value for value, _ in found), self.of_parameters(of_terms), *out)

    def score(self, table: Tensor, batch: Batch) -> Tensor:
        """The logits (B,)."""
        terms, lanes, values = self.terms(table), (0,) * (table.shape[1] - 1), _values(batch)
        read = _space(values[0], table), _space(values[1], table)
        return torch.from_numpy(towers.score(array(table), values, array(batch.starts), terms, lanes, read))


@dataclass(frozen=True, slots=True)
class Learned:
    """Of a batch: its loss, the gradients of parameters, and what was read of either side, with its gradients."""

    loss: float
    of_parameters: list[Tensor]
    read: tuple[towers.Read, towers.Read]
    of: tuple[towers.Gradients, towers.Gradients]


def _values(batch: Batch) -> tuple[towers.Values, towers.Values]:
    display, impression = (
        towers.Values(*(array(getattr(side, name)) for name in side.__slots__))
        for side in (batch.display, batch.impression)
    )
    return display, impression


def _space(values: towers.Values, table: Tensor) -> towers.Read:
    """Room for what is looked up."""
    fields, number = values.codes.shape[1] + len(values.bag_offsets), table.numpy().dtype
    shape = len(values.codes), fields
    return towers.Read(np.empty(shape, number), np.empty((*shape, table.shape[1] - 1), number))


class _Given:
    """What the compiled loops are given of a logit. reads: what it has gradients of."""

    def __init__(self, logit: Logit) -> None:
        self.compiled, linear, deep = Compiled(logit), logit.linear, logit.deep
        embeddings = deep.inputs.embeddings if deep else logit.pairs
        if logit.pairs not in (None, embeddings):
            raise TypeError("pairs: expected the embeddings that the MLP reads")
        either = embeddings or (linear.weights if linear else None)
        assert either is not None
        batch, like = either.batch, either.impression
        nothing = Sides(like.new_empty(batch.displays, 0), like.new_empty(batch.rows, 0), batch)
        embeddings = embeddings or Sides(nothing.display.unsqueeze(2), nothing.impression.unsqueeze(2), batch)
        weights, linear_numbers = (linear.weights, linear.numbers) if linear else (nothing, nothing)
        every = weights, linear_numbers, embeddings, deep.inputs.numbers if deep else nothing
        self.weights, self.embeddings = weights, embeddings
        self.reads = weights.display, weights.impression, embeddings.display, embeddings.impression
        self.reads += tuple(self.compiled.parameters)
        self.arguments = (
            towers.Side(*(array(sides.display) for sides in every)),
            towers.Side(*(array(sides.impression) for sides in every)),
            array(batch.starts),
            self.compiled.terms(like),
            (0,) * embeddings.impression.shape[2],
        )

    def gradients(self, of_logits: Array, kept: towers.Kept) -> list[Tensor]:
        """Of what was read."""
        w, e = self.weights, self.embeddings
        of = [
            towers.Gradients(np.empty(len(weights), of_logits.dtype), np.empty(embeddings.shape, of_logits.dtype))
            for weights, embeddings in ((w.display, e.display), (w.impression, e.impression))
        ]
        of_terms = towers.backward(of_logits, *self.arguments, kept, *of)
        of_weights = [
            torch.from_numpy(side.weights).unsqueeze(1).expand(weights.shape)
            for side, weights in zip(of, (w.display, w.impression), strict=True)
        ]
        of_embeddings = [torch.from_numpy(side.embeddings) for side in of]
        return [*of_weights, *of_embeddings, *self.compiled.of_parameters(of_terms)]


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: _Given, *_: Tensor) -> Tensor:
        ctx.given = given
        logits, ctx.kept = towers.forward(*given.arguments, any(ctx.needs_input_grad))
        return torch.from_numpy(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logits: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.given.gradients(array(of_logits), ctx.kept)
