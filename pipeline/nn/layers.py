"""The parts that networks are made of.

A batch has D displays with B rows in all. What the ads of a display share (user, page, time, place, documents viewed)
is looked up and multiplied once for each display, not once for each row, with equal results: `Sides` keeps the two
apart, and `Shared`, `linear` and `fm` compute from them what a plain layer would from rows. `Sides.rows` gives plain
rows to whatever needs them.

    x = self.embed(batch)       # weights, embeddings and numbers of all fields, by display and by impression
    self.linear(x)              # (B,)   b + sum_i w_i + <v, numbers>
    fm(x.embeddings)            # (B,)   sum_{i<j} <e_i, e_j>
    self.mlp(x.inputs)          # (B,)   MLP([e_1, ..., e_G, numbers])
    x.embeddings.rows()         # (B, G, E)
    x.inputs.rows()             # (B, G * E + K)

Shapes: G fields with embeddings, K numbers, E embedding size; on the side of displays (D, ...), on the other (B, ...).
In rows, fields of displays come before those of impressions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.nn import functions, perceptrons
from pipeline.nn.batches import Batch, Inputs, Side, Values
from pipeline.nn.dropout import Dropout, draw_seed
from pipeline.nn.pruning import prune

NORM_EPSILON = 1e-5
INITIAL_DEVIATION = 0.01  # of embeddings; weights begin at 0


@dataclass(frozen=True, slots=True)
class Sides:
    """Something that the fields of displays have (D, Gd, ...) and those of impressions have (B, Gi, ...)."""

    display: Tensor
    impression: Tensor
    batch: Batch

    def rows(self) -> Tensor:
        """As if every row had all fields by itself. (B, Gd + Gi, ...)"""
        return torch.cat([functions.spread(self.display, self.batch), self.impression], dim=1)

    def map(self, function: Callable[[Tensor], Tensor]) -> Sides:
        """Apply to either side what treats all items alike, such as a norm of each embedding."""
        return Sides(function(self.display), function(self.impression), self.batch)


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a network reads of a batch.

    weights: w_i (n, G). embeddings: e_i (n, G, E). numbers: (n, K), standardised, 0 where unknown.
    """

    weights: Sides
    embeddings: Sides
    numbers: Sides

    @property
    def inputs(self) -> Sides:
        """[e_1, ..., e_G, numbers] of each side: (n, G * E + K)."""
        return join(self.embeddings, self.numbers)


def join(embeddings: Sides, numbers: Sides) -> Sides:
    """Flat embeddings with the numbers behind them. (n, G, E) and (n, K) -> (n, G * E + K)"""

    def flat(e: Tensor, x: Tensor) -> Tensor:
        return torch.cat([e.flatten(1), x], dim=1) if x.shape[1] else e.flatten(1)

    display = flat(embeddings.display, numbers.display)
    return Sides(display, flat(embeddings.impression, numbers.impression), embeddings.batch)


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

    def forward(self, x: Embedded) -> Tensor:
        weights, numbers = x.weights, x.numbers
        logit = self.bias + functions.sum_weights(weights.display, weights.impression, weights.batch)
        if len(self.display):
            logit = logit + functions.spread(numbers.display @ self.display, weights.batch)
        return logit + numbers.impression @ self.impression if len(self.impression) else logit


def fm(embeddings: Sides) -> Tensor:
    """Sum over pairs of fields of <e_i, e_j>, in O(G E): Rendle 2010, lemma 3.1. (B,)"""
    return functions.fm(embeddings.display, embeddings.impression, embeddings.batch)


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
        return functions.shared_linear(x.display, x.impression, self.display, self.impression, self.bias, x.batch)


def input_sizes(inputs: Inputs, size: int) -> tuple[int, int]:
    """How long `Embedded.inputs` is on either side, for embeddings of `size`."""
    sides = inputs.display, inputs.impression
    display, impression = (len(side.embedded) * size + len(side.numeric) for side in sides)
    return display, impression


def variance_only(x: Tensor, epsilon: float = NORM_EPSILON) -> Tensor:
    """LayerNorm without its mean, gain and bias: x / sqrt(var + eps) over the last dimension (Wang et al. 2020)."""
    if functions.has_kernels(x):
        return perceptrons.normalize(x, False, epsilon)
    variance = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    return x * torch.rsqrt(variance + epsilon)


def layer_norm(x: Tensor, epsilon: float = NORM_EPSILON) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the last dimension, without gain and bias (Ba, Kiros and Hinton 2016)."""
    return functional.layer_norm(x, x.shape[-1:], eps=epsilon)


#: Of the items of a batch, each by itself: nothing here depends on what else is in it.
NORMS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda x, _: x,
    "layer": layer_norm,
    "variance": variance_only,
}


class Norm(nn.Module):
    """One of NORMS as a layer."""

    def __init__(self, name: str, epsilon: float = NORM_EPSILON) -> None:
        super().__init__()
        self.name, self.epsilon = name, epsilon

    def forward(self, x: Tensor) -> Tensor:
        return NORMS[self.name](x, self.epsilon)


class MLP(nn.Module):
    """Linear, norm (none unless named), ReLU, dropout for each hidden size, then one logit. Sides of (n, inputs) ->
    (B,); no hidden layer: 0.

    On a CPU perceptrons.mlp computes what `layers` say, in fewer passes over memory.
    """

    def __init__(self, inputs: tuple[int, int], hidden: Sequence[int], dropout: float, norm: str = "none") -> None:
        super().__init__()
        self.hidden, self.dropout, self.norm = len(hidden), dropout, norm
        layers: list[nn.Module] = []
        for i, size in enumerate(hidden):
            layers.append(nn.Linear(hidden[i - 1], size) if i else Shared(inputs, size))
            layers += [Norm(norm)] * (norm != "none") + [nn.ReLU(), Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], 1, bias=False)) if hidden else None

    def weights(self) -> list[Tensor]:
        """The matrices of the hidden layers, as they are stored: a shared layer has one for either side."""
        matrices: list[Tensor] = [parameter for parameter in self.parameters() if parameter.dim() == 2]
        return matrices[:-1]

    def forward(self, x: Sides) -> Tensor:
        if self.layers is None:
            return x.impression.new_zeros(len(x.impression))
        if not functions.has_kernels(x.impression):
            return torch.as_tensor(self.layers(x)).squeeze(1)
        drop = self.dropout if self.training else 0.0
        seeds = [draw_seed() if drop else 0 for _ in range(self.hidden)]
        between = perceptrons.Between(self.norm, NORM_EPSILON, drop, seeds)
        return perceptrons.mlp(x.display, x.impression, list(self.parameters()), between, x.batch)
