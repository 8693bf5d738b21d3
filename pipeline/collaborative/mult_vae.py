"""Mult-VAE: Liang, Krishnan, Hoffman, Jebara 2018, "Variational autoencoders for collaborative filtering".

What a user has viewed is a bag x of topics, categories and sources. A taste z stands behind it:

    z ~ N(0, I),    pi_s(z) = softmax(W_s z + b_s),    x_s ~ Mult(N_s, pi_s(z))    for each subject s            (eq. 1)
    log p(x | z) = sum_s sum_a x_sa log pi_sa(z)                                                                 (eq. 2)
    q(z | x) = N(mu(x), diag(sigma(x)^2)),    from an MLP over x / |x| with dropout                        (section 2.2)
    loss = - E_q log p(x | z) + beta KL(q(z | x) || N(0, I)),    beta annealed from 0                      (section 2.2)

The decoder is linear, so that a document has a vector in the space of z: that of its attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.collaborative.products import Floats, bag_sums, in_blocks
from pipeline.core.config import check

#: Users and attributes whose logits are computed at once.
_USERS, _ATTRIBUTES = 128, 512


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEConfig:
    """dim: of z. hidden: size of the encoder's hidden layer. dropout: of what was viewed. beta: weight of the KL term
    in the end, after `anneal` batches. batch: users. epochs: over the users of a day, that night."""

    dim: int = 16
    hidden: int = 64
    dropout: float = 0.5
    beta: float = 0.2
    anneal: int = 500
    batch: int = 100
    epochs: int = 2
    learning_rate: float = 3e-3
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("dim", "hidden", "anneal", "batch", "epochs"):
            check(getattr(self, name) >= 1, f"{name}: must be 1 or more, found {getattr(self, name)}")
        check(0 <= self.dropout < 1, f"dropout: must be from 0 to below 1, found {self.dropout}")
        check(self.beta >= 0, f"beta: must be 0 or more, found {self.beta}")
        check(self.learning_rate > 0, f"learning_rate: must be above 0, found {self.learning_rate}")
        check(0 <= self.seed < 1 << 64, f"seed: must be from 0 to below 2^64, found {self.seed}")


class MultVAE(nn.Module):
    """subjects: ranges of the A attributes, each a multinomial of its own."""

    def __init__(self, subjects: Sequence[range], config: VAEConfig) -> None:
        super().__init__()
        self.subjects, self.config = list(subjects), config
        hidden = nn.Linear(self.subjects[-1].stop, config.hidden)
        self.hidden, self.hidden_bias = nn.Parameter(hidden.weight.detach().T.contiguous()), hidden.bias
        self.posterior = nn.Linear(config.hidden, 2 * config.dim)
        self.decoder = nn.Linear(config.dim, self.subjects[-1].stop)

    def encode(self, bags: sp.csr_matrix) -> tuple[Tensor, Tensor]:
        """mu and log sigma^2 of q(z | x), (B, K) each. bags: x (B, A)"""
        dropout = self.config.dropout if self.training else 0.0
        hidden = bag_sums(of_length_one(bags), self.hidden, dropout) + self.hidden_bias
        mu, log_variance = self.posterior(torch.tanh(hidden)).chunk(2, dim=1)
        return mu, log_variance

    def loss(self, bags: sp.csr_matrix, beta: float, random: torch.Generator) -> Tensor:
        """The loss above, the mean of the users, with one draw of z each. ()"""
        mu, log_variance = self.encode(bags)
        noise = torch.randn(mu.shape, generator=random)
        z = mu + noise * (log_variance / 2).exp()
        user = np.repeat(np.arange(len(mu)), np.diff(bags.indptr))
        at, times = torch.from_numpy(user * bags.shape[1] + bags.indices), torch.from_numpy(bags.data)
        likelihood = log_likelihood(self.decoder(z), at, times, self.subjects)
        return (beta * gaussian_kl(mu, log_variance).sum() - likelihood) / len(mu)


def log_likelihood(logits: Tensor, at: Tensor, times: Tensor, subjects: list[range]) -> Tensor:
    """Eq. 2, the sum of the users. (); logits: (B, A). x has `times` at `at`, places in the flat logits, else 0."""
    total: Tensor = _LogLikelihood.apply(logits, at, times, subjects)
    return total


class _LogLikelihood(torch.autograd.Function):
    """The sum and its gradient, x_sa - N_s pi_sa, are found in the same few passes over the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, at: Tensor, times: Tensor, subjects: list[range]) -> Tensor:
        subject = torch.bucketize(at % logits.shape[1], torch.tensor([s.stop for s in subjects]), right=True)
        of_subject = at // logits.shape[1] * len(subjects) + subject
        views = logits.new_zeros(len(logits) * len(subjects)).index_add_(0, of_subject, times).view(-1, len(subjects))
        gradient, total = torch.empty_like(logits), (logits.view(-1)[at] * times).sum()
        for place, s in enumerate(subjects):
            if not s:  # no document has any attribute of this subject
                continue
            part, count = slice(s.start, s.stop), views[:, [place]]
            top = logits[:, part].amax(dim=1, keepdim=True)
            pi = torch.sub(logits[:, part], top, out=gradient[:, part]).exp_()
            partition = pi.sum(dim=1, keepdim=True)
            total -= (count * (partition.log() + top)).sum()
            pi.mul_(-count / partition)
        ctx.save_for_backward(gradient.view(-1).index_add_(0, at, times).view_as(logits))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradients[0] * gradient, None, None, None


def of_length_one(bags: sp.csr_matrix) -> sp.csr_matrix:
    """Rows scaled to a length of 1; those without anything stay empty."""
    length = np.sqrt(np.asarray(bags.multiply(bags).sum(axis=1)).ravel())
    return sp.csr_matrix(sp.diags_array(1 / np.maximum(length, 1e-12)) @ bags).astype(np.float32)


def gaussian_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, diag(sigma^2)) || N(0, I)), (B, K) -> (B,)"""
    return 0.5 * (mu.square() + log_variance.exp() - log_variance - 1).sum(dim=1)


@dataclass(frozen=True, slots=True)
class Tastes:
    """A fitted Mult-VAE as arrays, with which any number of users is scored, each by itself.

    hidden: (A, H) and (H,). posterior: (H, 2 K) and (2 K,). decoder: (A, K) and (A,). log_popularity: (A,) log share of
    each attribute, within its subject, of all that has been viewed. axes: (K, K) turns z so that its first numbers
    vary most.
    """

    subjects: list[range]
    hidden: tuple[Floats, Floats]
    posterior: tuple[Floats, Floats]
    decoder: tuple[Floats, Floats]
    log_popularity: Floats
    axes: Floats

    @classmethod
    def of(cls, model: MultVAE, popularity: NDArray[np.float64], axes: Floats) -> Tastes:
        """popularity: (A,) how much of each attribute has been viewed."""
        hidden = (model.hidden.detach().numpy().copy(), model.hidden_bias.detach().numpy().copy())
        posterior, decoder = (
            (layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy())
            for layer in (model.posterior, model.decoder)
        )
        counts = [popularity[s.start : s.stop] + 1 for s in model.subjects]
        log_popularity = np.concatenate([np.log(count / count.sum()) for count in counts]).astype(np.float32)
        return cls(model.subjects, hidden, (posterior[0].T, posterior[1]), decoder, log_popularity, axes)

    def taste(self, bags: sp.csr_matrix, explore: np.random.Generator | None = None) -> Floats:
        """z of users (U, K): the mean of q(z | x), or a draw from it to explore. bags: (U, A)"""
        hidden = np.tanh(of_length_one(bags) @ self.hidden[0] + self.hidden[1])
        mu, log_variance = np.split(in_blocks(hidden, self.posterior[0]) + self.posterior[1], 2, axis=1)
        if explore is not None:
            mu = mu + explore.standard_normal(mu.shape, np.float32) * np.exp(log_variance / 2)
        return mu.astype(np.float32)

    @torch.no_grad()
    def log_partition(self, z: Floats) -> Floats:
        """(U, S): log sum_a exp(<w_a, z> + b_a) of each subject, in pieces that fit into a core's cache; 0 where it has
        no attribute, so that nothing is asked of it."""
        result = np.zeros((len(z), len(self.subjects)), np.float32)
        pieces = [
            [slice(first, min(first + _ATTRIBUTES, s.stop)) for first in range(s.start, s.stop, _ATTRIBUTES)]
            for s in self.subjects
        ]
        weights, bias = (torch.from_numpy(array) for array in self.decoder)
        for start in range(0, len(z), _USERS):
            users = z[start : start + _USERS]
            block = torch.zeros(_USERS, z.shape[1])
            block[: len(users)] = torch.from_numpy(users)
            for s, subject in enumerate(pieces):
                if not subject:
                    continue
                sums = [torch.addmm(bias[piece], block, weights[piece].T).logsumexp(dim=1) for piece in subject]
                result[start : start + _USERS, s] = torch.stack(sums).logsumexp(dim=0)[: len(users)].numpy()
        return result

    def documents(self, attributes: sp.csr_matrix, subject: range) -> tuple[Floats, Floats]:
        """For the attributes (n, A) of documents: sum_a v_a w_a (n, K) and sum_a v_a (b_a - log popularity_a) (n,), v
        their weights within a subject, scaled to sum to 1; NaN for a document without any."""
        own = attributes[:, subject.start : subject.stop].astype(np.float32)
        total = np.asarray(own.sum(axis=1)).ravel()
        scale = np.divide(1, total, out=np.full(len(total), np.nan, np.float32), where=total > 0)
        weights, bias = (array[subject.start : subject.stop] for array in self.decoder)
        lift = bias - self.log_popularity[subject.start : subject.stop]
        return (own @ weights) * scale[:, None], (own @ lift) * scale
