"""A user's documents in order: Piech et al. 2015, "Deep knowledge tracing", with documents in place of exercises.

    e_d = V a_d                          a document, from its topics, categories and sources a_d
    h_t = GRU(h_{t-1}, e_{x_t})          the user's state after its t-th document x_t                     (eq. 1)
    y_t = U h_t,    s(d | h_t) = <e_d, y_t>                                                               (eq. 2)

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
from pipeline.collaborative.ials import Floats, Longs, gram, principal_axes
from pipeline.collaborative.mult_vae import one_thread
from pipeline.collaborative.nightly_tastes import bags_of
from pipeline.collaborative.viewed import Viewed
from pipeline.core.config import check
from pipeline.core.progress import bar

#: Users of a batch that is read out; always as many, since a row's rounding may depend on the number of rows.
_BLOCK = 512


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


class Tracer(nn.Module):
    """attributes: A, how many a document may have."""

    def __init__(self, attributes: int, config: DKTConfig) -> None:
        super().__init__()
        self.embedding = nn.Linear(attributes, config.dim, bias=False)
        self.recurrent = nn.GRU(config.dim, config.hidden, batch_first=True)
        self.readout = nn.Linear(config.hidden, config.dim)

    def forward(self, embedded: Tensor) -> Tensor:
        """y_t for each t: (B, T, D) -> (B, T, D)"""
        states, _ = self.recurrent(embedded)
        result: Tensor = self.readout(states)
        return result

    def loss(self, documents: Tensor, sequence: Tensor, known: Tensor) -> Tensor:
        """Mean of -log p(x_{t+1} | h_t). documents: (n, A); sequence: (B, T + 1) of 0..n-1; known: (B, T + 1)."""
        e = self.embedding(documents)
        y = self(e[sequence[:, :-1]])[known[:, 1:]]  # (m, D)
        following = sequence[:, 1:][known[:, 1:]]
        counts = torch.bincount(following, minlength=len(documents))
        logits = y @ e.T + counts.log()  # what does not come next in this batch has n_d = 0
        return nn.functional.cross_entropy(logits, following)

    def documents(self, attributes: sp.csr_matrix) -> Floats:
        """e_d (n, D) of documents by their normalised attributes (n, A)."""
        return np.asarray(attributes @ self.embedding.weight.detach().numpy().T, np.float32)

    @torch.no_grad()
    def read_out(self, embeddings: Floats, sequence: Longs, lengths: Longs) -> Floats:
        """y after the last document of each user (U, D). sequence: (U, T) rows of `embeddings`; lengths: (U,), 1 or
        more."""
        result = np.empty((len(sequence), embeddings.shape[1]), np.float32)
        with one_thread():
            for start in range(0, len(sequence), _BLOCK):
                piece = sequence[start : start + _BLOCK]
                block = np.zeros((_BLOCK, sequence.shape[1]), np.int64)
                block[: len(piece)] = piece
                y = self(torch.from_numpy(embeddings[block]))[: len(piece)].numpy()
                result[start : start + _BLOCK] = y[np.arange(len(piece)), lengths[start : start + _BLOCK] - 1]
        return result


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
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate)
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
                    x = torch.from_numpy(known_documents[used].toarray().astype(np.float32))
                    loss = network.loss(x, torch.from_numpy(local.reshape(sequence.shape)), torch.from_numpy(known))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            if axes is None:
                axes = principal_axes(gram(network.documents(every)))
            traces[today + 1] = Trace(copy.deepcopy(network), axes)
            shown.update(1)
    return traces
