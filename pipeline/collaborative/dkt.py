"""What a user did, in order: Piech et al. 2015, "Deep knowledge tracing", with documents in place of exercises.

    e_d = V a_d                          a document, from its topics, categories and sources a_d
    x_t = e_{d_t} + k_{q_t}              the t-th document d_t and what became of it: viewed, passed over, clicked
    h_t = GRU(h_{t-1}, x_t)              the user's state after it                                        (eq. 1)
    y_t = U h_t + u,  s(d | h_t) = <e_d, y_t>                                                             (eq. 2)

The paper's x_t is a vector of its own for each pair of exercise and answer, its recurrent layer a plain one or an LSTM;
this is the gated unit of Cho et al. 2014 (collaborative.gru).

s is read out against what comes next. Of page views: p(d_{t+1} = d | h_t) is proportional to n_d exp(s), n_d how often
d comes in the batch, so that s is how much likelier a document is than by its popularity. Of a display: p(d is clicked
| h_t) is proportional to exp(s) among its ads, h_t the state before them.
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
from pipeline.collaborative.viewed import CLICKED, PASSED, VIEWED, Traced
from pipeline.core.config import check
from pipeline.core.progress import bar
from pipeline.nn.adam import Adam


@dataclass(frozen=True, kw_only=True, slots=True)
class DKTConfig:
    """dim: of embeddings. hidden: of the state. length: how many of the latest documents make the state, those of ads
    among them. batch: users. epochs: over the users of a day, that night."""

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


_WHAT = (VIEWED, PASSED, CLICKED)
#: exp of more is not finite in float32.
_LARGEST = 80.0


@dataclass(frozen=True, slots=True)
class Batch:
    """The latest documents of B users in order; of each row the first of `lengths` are known.

    document: (B, T) of 0..n-1. what: (B, T), what became of each, -1 where there is none. before: (B, T), after which
    of its row each comes, -1 if after none; an ad comes after what was there before its display. steps: of all but the
    last of each row.
    """

    document: Longs
    what: Longs
    before: Longs
    lengths: Longs
    steps: Steps

    @classmethod
    def of(cls, document: Longs, what: NDArray[np.integer], time: Longs, known: NDArray[np.bool_]) -> Batch:
        """time: (B, T); a user's ads of the same time are those of a display."""
        shown, goes_on = what != VIEWED, np.zeros(what.shape, bool)
        goes_on[:, 1:] = shown[:, 1:] & shown[:, :-1] & (time[:, 1:] == time[:, :-1])
        start = np.maximum.accumulate(np.where(goes_on, 0, np.arange(what.shape[1])), axis=1)
        lengths = known.sum(axis=1)
        steps = Steps.of(np.maximum(lengths - 1, 0))
        return cls(document, np.where(known, what, -1).astype(np.int64), start - 1, lengths, steps)

    @property
    def element(self) -> tuple[Longs, Longs]:
        """Row and place of each of the m documents after which another may come, in the order of `steps`."""
        return self.steps.row, self.steps.step

    def following(self, what: int) -> tuple[Tensor, Tensor]:
        """The documents (k,) of which that became, and the element, of 0..m-1, after which each comes."""
        row, step, state = self._after(what)
        return torch.from_numpy(self.document[row, step]), torch.from_numpy(state)

    def choices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """clicked (k,) and the element after which each comes; passed (p,), the ads beside them, each with the place of
        its display's click among the k."""
        row, step, state = self._after(CLICKED)
        display = row * self.document.shape[1] + self.before[row, step]
        there, place, _ = self._after(PASSED)
        display_of_rival = there * self.document.shape[1] + self.before[there, place]
        click = np.searchsorted(display, display_of_rival)
        met = np.isin(display_of_rival, display)
        found = (self.document[row, step], state, self.document[there, place][met], click[met])
        clicked, after, passed, of_click = (torch.from_numpy(array) for array in found)
        return clicked, after, passed, of_click

    def _after(self, what: int) -> tuple[Longs, Longs, Longs]:
        """Row and place of each of which that became, and the element after which it comes."""
        row, step = np.nonzero((self.what == what) & (self.before >= 0))
        number = np.zeros(self.document.shape, np.int64)
        number[self.element] = np.arange(len(self.steps.row))
        return row, step, number[row, self.before[row, step]]


class Tracer(nn.Module):
    """attributes: A, how many a document may have."""

    def __init__(self, attributes: int, config: DKTConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(nn.Linear(attributes, config.dim, bias=False).weight.detach().T.contiguous())
        self.became = nn.Parameter(torch.zeros(len(_WHAT), config.dim))  # k
        self.recurrent = nn.GRUCell(config.dim, config.hidden)
        self.readout = nn.Linear(config.hidden, config.dim)

    def loss(self, documents: sp.csr_matrix, batch: Batch) -> Tensor:
        """Mean of -log p of what is viewed next and of what is clicked. documents: (n, A), those of the batch."""
        e, weight = bag_sums(documents, self.embedding), self.recurrent.weight_ih
        of_document, of_what = nn.functional.linear(e, weight, self.recurrent.bias_ih), self.became @ weight.T
        x = of_document[batch.document[batch.element]] + of_what[batch.what[batch.element]]
        y = self.readout(gru(x, self.recurrent, batch.steps.sizes))  # (m, D)
        viewed, state = batch.following(VIEWED)
        counts = torch.bincount(viewed, minlength=len(e))
        logits = torch.addmm(counts.log(), y[state], e.T)  # what does not come next in this batch has n_d = 0
        of_views = nn.functional.cross_entropy(logits, viewed, reduction="sum")
        clicked, state, passed, click = batch.choices()
        score, rivals = (e[clicked] * y[state]).sum(dim=1), (e[passed] * y[state[click]]).sum(dim=1)
        odds = torch.zeros_like(score).index_add(0, click, (rivals - score[click]).clamp(max=_LARGEST).exp())
        return (of_views + odds.log1p().sum()) / max(len(viewed) + len(clicked), 1)

    def documents(self, attributes: sp.csr_matrix) -> Floats:
        """e_d (n, D) of documents by their normalised attributes (n, A)."""
        return np.asarray(attributes @ self.embedding.detach().numpy(), np.float32)

    @torch.no_grad()
    def read_out(self, embeddings: Floats, sequence: Longs, what: NDArray[np.integer], lengths: Longs) -> Floats:
        """y after the last document of each user (U, D). sequence: (U, T) rows of `embeddings`; what: (U, T), what
        became of them; lengths: (U,), 1 or more."""
        pairs, element = np.unique(sequence * len(_WHAT) + what, return_inverse=True)
        layers = (self.recurrent.weight_ih, self.recurrent.bias_ih, self.readout.weight, self.readout.bias)
        weight, bias, out, constant = (layer.numpy() for layer in layers)
        of_what = (self.became @ self.recurrent.weight_ih.T).numpy()
        x = in_blocks(embeddings, weight.T)[pairs // len(_WHAT)] + bias + of_what[pairs % len(_WHAT)]
        states = last_states(torch.from_numpy(x), element.reshape(sequence.shape), lengths, self.recurrent)
        return in_blocks(states, out.T) + constant


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


def fit_traces(traced: Traced, attributes: Attributes, config: DKTConfig) -> dict[int, Trace]:
    """The network of each morning: it goes on learning each night from the users of the day."""
    torch.manual_seed(config.seed)
    network = Tracer(attributes.weights.shape[1], config)
    optimizer = Adam(network.parameters(), config.learning_rate)
    order = np.random.default_rng(config.seed)
    ids, document = np.unique(traced.document, return_inverse=True)
    known_documents = normalised(attributes.rows(ids))
    every, places = normalised(attributes.weights), np.arange(len(document))
    traces: dict[int, Trace] = {}
    axes: Floats | None = None
    with one_thread(), bar(None, "DKT", "night") as shown:
        for today in traced.days():
            starts, ends = bags_of(traced, today)
            several = ends - starts >= 2
            starts, ends = starts[several], ends[several]
            for _ in range(config.epochs):
                shuffled = order.permutation(len(starts))
                for first in range(0, len(shuffled), config.batch):
                    chosen = shuffled[first : first + config.batch]
                    at, known = pack(places, starts[chosen], ends[chosen], config.length + 1)
                    at = np.where(known, at, at[:, :1])  # no document that is not in the batch
                    used, local = np.unique(document[at], return_inverse=True)
                    batch = Batch.of(local.reshape(at.shape), traced.what[at], traced.time[at], known)
                    loss = network.loss(known_documents[used], batch)
                    loss.backward()
                    optimizer.step()
            if axes is None:
                axes = principal_axes(gram(network.documents(every)))
            traces[today + 1] = Trace(copy.deepcopy(network), axes)
            shown.update(1)
    return traces
