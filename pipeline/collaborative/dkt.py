"""A user's documents in order: Piech et al. 2015, "Deep knowledge tracing", with documents in place of exercises.

    e_d = V a_d                          a document, from its topics, categories and sources a_d
    h_t = GRU(h_{t-1}, e_{x_t})          the user's state after its t-th document x_t, by a gated unit (Cho et al. 2014,
                                         see collaborative.gru) in place of the plain one                 (eq. 1)
    y_t = U h_t + b,    s(d | h_t) = <e_d, y_t>                                                           (eq. 2)

s is read out against what comes next: p(x_{t+1} = d | h_t) is proportional to n_d exp(s), n_d how often d comes in the
batch, so that s is how much likelier a document is than by its popularity. No label is learned from, only what was
viewed; clicks enter as documents that were viewed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.collaborative.attributes import Attributes
from pipeline.collaborative.gru import Steps, gru, last_states
from pipeline.collaborative.ials import Floats, Longs, gram, principal_axes
from pipeline.collaborative.nightly_tastes import bags_of
from pipeline.collaborative.products import bag_sums, in_blocks, one_thread
from pipeline.collaborative.viewed import Viewed
from pipeline.core.config import check
from pipeline.core.progress import bar


@dataclass(frozen=True, kw_only=True, slots=True)
class DKTConfig:
    """dim: of embeddings. hidden: of the state. length: how many of the latest documents make the state. batch: users.
    epochs: over the users of a day, that night."""

    dim: int = 16
    hidden: int = 32
    length: int = 20
    batch: int = 64
    epochs: int = 1
    learning_rate: float = 3e-3
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("dim", "hidden", "batch", "epochs"):
            check(getattr(self, name) >= 1, f"{name}: must be 1 or more, found {getattr(self, name)}")
        check(self.length >= 2, f"length: must be 2 or more, found {self.length}")
        check(self.learning_rate > 0, f"learning_rate: must be above 0, found {self.learning_rate}")
        check(0 <= self.seed < 1 << 64, f"seed: must be from 0 to below 2^64, found {self.seed}")


class Tracer(nn.Module):
    """attributes: A, how many a document may have."""

    def __init__(self, attributes: int, config: DKTConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(nn.Linear(attributes, config.dim, bias=False).weight.detach().T.contiguous())
        self.recurrent = nn.GRUCell(config.dim, config.hidden)
        self.readout = nn.Linear(config.hidden, config.dim)

    def inputs(self, e: Tensor) -> Tensor:
        """What the documents add to the gates of the GRU: (n, D) -> (n, 3H)"""
        return nn.functional.linear(e, self.recurrent.weight_ih, self.recurrent.bias_ih)

    def loss(self, documents: sp.csr_matrix, sequence: Longs, lengths: Longs) -> Tensor:
        """Mean of -log p(x_{t+1} | h_t). documents: (n, A); sequence: (B, T) of 0..n-1, of which the first of each
        row's `lengths` (B,) are known."""
        steps = Steps.of(np.maximum(lengths - 1, 0))
        current, following = (torch.from_numpy(sequence[steps.row, steps.step + i]) for i in (0, 1))
        e = bag_sums(documents, self.embedding)
        y = self.readout(gru(self.inputs(e)[current], self.recurrent, steps.sizes))  # (m, D)
        counts = torch.bincount(following, minlength=documents.shape[0])
        logits = torch.addmm(counts.log(), y, e.T)  # what does not come next in this batch has n_d = 0
        return nn.functional.cross_entropy(logits, following)

    def documents(self, attributes: sp.csr_matrix) -> Floats:
        """e_d (n, D) of documents by their normalised attributes (n, A)."""
        return np.asarray(attributes @ self.embedding.detach().numpy(), np.float32)

    def read_out(self, embeddings: Floats, sequence: Longs, lengths: Longs) -> Floats:
        """y after the last document of each user (U, D). sequence: (U, T) rows of `embeddings`; lengths: (U,), 1 or
        more."""
        layers = (self.recurrent.weight_ih, self.recurrent.bias_ih, self.readout.weight, self.readout.bias)
        weight, bias, out, constant = (layer.detach().numpy() for layer in layers)
        x = torch.from_numpy(in_blocks(embeddings, weight.T) + bias)
        return in_blocks(last_states(x, sequence, lengths, self.recurrent), out.T) + constant


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known on a morning: the network, and the axes (D, D) along which its embeddings vary most."""

    network: Tracer
    axes: Floats


def normalised(attributes: sp.csr_matrix) -> sp.csr_matrix:
    """Rows scaled to a sum of 1; those without anything stay empty."""
    total = np.asarray(attributes.sum(axis=1)).ravel()
    scale = np.divide(1, total, out=np.zeros(len(total), np.float32), where=total > 0)
    return sp.csr_matrix(sp.diags_array(scale) @ attributes)


def pack(values: Longs, starts: Longs, ends: Longs, length: int) -> tuple[Longs, NDArray[np.bool_]]:
    """The last `length` of values[starts[i] : ends[i]] as rows (n, length), filled up at the end, and what is known."""
    starts = np.maximum(starts, ends - length)
    at = starts[:, None] + np.arange(length)
    known = at < ends[:, None]
    return np.where(known, values[np.minimum(at, max(0, len(values) - 1))], 0), known


def fit_traces(viewed: Viewed, attributes: Attributes, config: DKTConfig) -> dict[int, Trace]:
    """The network of each morning: it goes on learning each night from the users of the day."""
    torch.manual_seed(config.seed)
    network = Tracer(attributes.weights.shape[1], config)
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate, fused=True)
    order = np.random.default_rng(config.seed)
    ids, document = np.unique(viewed.document, return_inverse=True)
    known_documents = normalised(attributes.rows(ids))
    every = normalised(attributes.weights)
    traces: dict[int, Trace] = {}
    axes: Floats | None = None
    with one_thread(), bar(None, "DKT", "night") as shown:
        for today in viewed.days():
            starts, ends = bags_of(viewed, today)
            several = ends - starts >= 2
            starts, ends = starts[several], ends[several]
            for _ in range(config.epochs):
                shuffled = order.permutation(len(starts))
                for first in range(0, len(shuffled), config.batch):
                    chosen = shuffled[first : first + config.batch]
                    sequence, known = pack(document, starts[chosen], ends[chosen], config.length + 1)
                    used, local = np.unique(sequence, return_inverse=True)
                    loss = network.loss(known_documents[used], local.reshape(sequence.shape), known.sum(axis=1))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            if axes is None:
                axes = principal_axes(gram(network.documents(every)))
            traces[today + 1] = Trace(copy.deepcopy(network), axes)
            shown.update(1)
    return traces
