"""The parts that networks are made of.

A batch has D displays with B rows in all. What the ads of a display share (user, page, time, place, documents viewed)
is looked up and multiplied once for each display, not once for each row, with equal results: `terms.Sides` keeps the
two apart. `Sides.rows` gives plain rows to whatever needs them.

    x = self.embed(batch)       # weights, embeddings and numbers of all fields, by display and by impression
    self.linear(x)              # b + sum_i w_i + <v, numbers>
    fm(x.embeddings)            # sum_{i<j} <e_i, e_j>
    self.mlp(x.inputs)          # MLP([e_1, ..., e_G, numbers])
    x.embeddings.rows()         # (B, G, E)
    x.inputs.rows()             # (B, G * E + K)

Each term is a `terms.Logit`, and so is their sum. Shapes: G fields with embeddings, K numbers, E embedding size; on the
side of displays (D, ...), on the other (B, ...). In rows, fields of displays come before those of impressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.nn import functions
from pipeline.nn.batches import Batch, Inputs, Side, Values
from pipeline.nn.dropout import Dropout, draw_seed
from pipeline.nn.norms import Norm
from pipeline.nn.passes import Between
from pipeline.nn.pruning import prune
from pipeline.nn.terms import DeepTerm, Joined, LinearTerm, Logit, Sides

INITIAL_DEVIATION = 0.001  # of embeddings; weights begin at 0


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a network reads of a batch.

    weights: w_i (n, G). embeddings: e_i (n, G, E). numbers: (n, K), standardised, 0 where unknown.
    """

    weights: Sides
    embeddings: Sides
    numbers: Sides

    @property
    def inputs(self) -> Joined:
        """[e_1, ..., e_G, numbers]"""
        return Joined(self.embeddings, self.numbers)


@dataclass(frozen=True, slots=True)
class Read:
    """What was looked up of one side; the gradients of `weights` and `embeddings` will change the table."""

    table: FieldEmbedding
    per: str  # the side
    values: Values
    repeats: Tensor  # (n,) how many rows read it
    weights: Tensor
    embeddings: Tensor


class FieldEmbedding(nn.Module):
    """Weight w_i and embedding e_i of every field, from one fused table (N, 1 + E).

    A multi-valued field is the weighted sum of its values. The table takes no part in autograd, since a gradient as
    large as the table would be made: in training, what was read is noted in `batch.reads` as leaves of the graph, from
    whose gradients rows.RowOptimizer changes the rows that were read, and no others.
    """

    def __init__(self, inputs: Inputs, size: int) -> None:
        super().__init__()
        self.inputs, self.size = inputs, size
        self.weight = nn.Parameter(torch.empty(inputs.table_size, 1 + size), requires_grad=False)
        nn.init.normal_(self.weight, 0, INITIAL_DEVIATION)
        nn.init.zeros_(self.weight[:, 0])

    def forward(self, batch: Batch) -> Embedded:
        display = self._read(self.inputs.display, batch.display, batch)
        impression = self._read(self.inputs.impression, batch.impression, batch)
        return Embedded(
            Sides(display[0], impression[0], batch),
            Sides(display[1], impression[1], batch),
            Sides(batch.display.numbers, batch.impression.numbers, batch),
        )

    def _read(self, side: Side, values: Values, batch: Batch) -> tuple[Tensor, Tensor]:
        weights, embeddings = functions.look_up(self.weight, values)
        if torch.is_grad_enabled():
            weights.requires_grad_()
            embeddings.requires_grad_()
            repeats = batch.lengths.to(weights.dtype) if side.per == "display" else weights.new_ones(batch.rows)
            batch.reads.append(Read(self, side.per, values, repeats, weights, embeddings))
        return weights, embeddings


class Linear(nn.Module):
    """b + sum of w_i + <v, numbers>: the part of logistic regression, which every model has. (B,)"""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.display = nn.Parameter(torch.zeros(len(inputs.display.numeric)))
        self.impression = nn.Parameter(torch.zeros(len(inputs.impression.numeric)))

    def forward(self, x: Embedded) -> Logit:
        w, numbers = x.weights, x.numbers
        if functions.has_kernels(self.bias):
            return Logit(linear=LinearTerm(w, numbers, self.bias, self.display, self.impression))
        shared = w.display.sum(1) + numbers.display @ self.display
        own = w.impression.sum(1) + numbers.impression @ self.impression
        return Logit(tensors=(self.bias + functions.spread(shared, w.batch) + own,))


def fm(embeddings: Sides) -> Logit:
    """Sum over pairs of fields of <e_i, e_j>, in O(G E): Rendle 2010, lemma 3.1. (B,)"""
    if functions.has_kernels(embeddings.impression):
        return Logit(pairs=embeddings)
    total, squares = (
        functions.spread(of_display, embeddings.batch) + of_impression
        for of_display, of_impression in (
            (embeddings.display.sum(1), embeddings.impression.sum(1)),
            (embeddings.display.square().sum((1, 2)), embeddings.impression.square().sum((1, 2))),
        )
    )
    return Logit(tensors=(0.5 * (total.square().sum(1) - squares),))


class WeightedPairs(nn.Module):
    """Sum over pairs of fields of r_ij <e_i, e_j> (Pan et al. 2018, FwFM); with all r_ij = 1 it is `fm`. (B,)

    What pairs of two fields of displays give is computed once for each display, and so is the sum over a display's own
    fields that a field of impressions is multiplied with.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.displays = len(inputs.display.embedded)
        # those above the diagonal count
        self.weight = nn.Parameter(torch.ones(inputs.embedded, inputs.embedded).triu(1))

    def matrix(self) -> Tensor:
        """R, symmetric, 0 on its diagonal. (G, G)"""
        upper = self.weight.triu(1)
        return upper + upper.t()

    def prune(self, share: float) -> None:
        """Set the smallest to 0: a share of the pairs."""
        with torch.no_grad():
            above = torch.ones_like(self.weight, dtype=torch.bool).triu(1)
            pairs = self.weight[above]
            prune([pairs], [pairs.abs()], share)
            self.weight[above] = pairs

    def forward(self, embeddings: Sides) -> Tensor:
        of_display, of_impression = self.matrix().split([self.displays, len(self.weight) - self.displays])
        shared = torch.einsum("ij,nje->nie", of_display[:, : self.displays], embeddings.display)
        both = torch.einsum("ij,nje->nie", of_impression[:, : self.displays], embeddings.display)
        own = torch.einsum("ij,nje->nie", of_impression[:, self.displays :], embeddings.impression)
        display = 0.5 * (shared * embeddings.display).sum((1, 2))  # (D,)
        impression = (functions.spread(both, embeddings.batch) + 0.5 * own) * embeddings.impression
        return functions.spread(display, embeddings.batch) + impression.sum((1, 2))


class Shared(nn.Module):
    """A linear layer on rows [display, impression], its product with the display's part made once for each display.

    inputs: sizes of the two parts. (D, inputs[0]), (B, inputs[1]) -> (B, outputs)
    """

    def __init__(self, inputs: tuple[int, int], outputs: int, bias: bool = True) -> None:
        super().__init__()
        whole = nn.Linear(sum(inputs), outputs, bias)  # the initial weights of a plain layer
        display, impression = whole.weight.detach().split(inputs, dim=1)
        self.display = nn.Parameter(display.clone())  # (outputs, inputs[0])
        self.impression = nn.Parameter(impression.clone())
        self.bias = whole.bias

    @property
    def weight(self) -> Tensor:
        """Of the plain layer that gives the same. (outputs, inputs[0] + inputs[1])"""
        return torch.cat([self.display, self.impression], dim=1)

    def forward(self, x: Sides) -> Tensor:
        shared = functional.linear(x.display, self.display, self.bias)
        return functions.spread(shared, x.batch) + functional.linear(x.impression, self.impression)


def input_sizes(inputs: Inputs, size: int) -> tuple[int, int]:
    """How long `Embedded.inputs` is on either side, for embeddings of `size`."""
    sides = inputs.display, inputs.impression
    display, impression = (len(side.embedded) * size + len(side.numeric) for side in sides)
    return display, impression


class MLP(nn.Module):
    """Linear, norm (if there is one), ReLU, dropout for each hidden size, then one logit; no hidden layer: 0.

    On a CPU terms.DeepTerm computes what `layers` say, in fewer passes over memory.
    """

    def __init__(
        self, inputs: tuple[int, int], hidden: Sequence[int], dropout: float, norm: Norm | None = None
    ) -> None:
        super().__init__()
        self.hidden, self.dropout, self.norm = len(hidden), dropout, norm
        layers: list[nn.Module] = []
        for i, size in enumerate(hidden):
            layers.append(nn.Linear(hidden[i - 1], size) if i else Shared(inputs, size))
            layers += [*([] if norm is None else [norm]), nn.ReLU(), Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], 1, bias=False)) if hidden else None

    def weights(self) -> list[Tensor]:
        """The matrices of the hidden layers, as they are stored: a shared layer has one for either side."""
        matrices: list[Tensor] = [parameter for parameter in self.parameters() if parameter.dim() == 2]
        return matrices[:-1]

    def forward(self, x: Joined) -> Logit:
        own = x.embeddings.impression
        if self.layers is None:
            return Logit()
        if not functions.has_kernels(own):
            return Logit(tensors=(torch.as_tensor(self.layers(x.sides())).squeeze(1),))
        drop = self.dropout if self.training else 0.0
        seeds = np.array([draw_seed() if drop else 0 for _ in range(self.hidden)], np.int64)
        norm = self.norm or Norm("none")
        between = Between(norm.name != "none", norm.name == "layer", norm.epsilon, drop, seeds)
        return Logit(deep=DeepTerm(x, list(self.parameters()), between))
