"""Mult-VAE as a system would run it: each night it goes on learning from the users of the day, what they have viewed so
far; a display is described by the network of its morning, which no later day has touched."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from pipeline.collaborative.attributes import Attributes
from pipeline.collaborative.ials import Floats, Longs, principal_axes
from pipeline.collaborative.mult_vae import MultVAE, Tastes, VAEConfig
from pipeline.collaborative.products import one_thread
from pipeline.collaborative.viewed import Viewed
from pipeline.core.progress import bar
from pipeline.nn.adam import Adam


def fit_tastes(viewed: Viewed, attributes: Attributes, config: VAEConfig) -> dict[int, Tastes]:
    """The network of each morning; the views of day v are first known on the morning of day v + 1."""
    torch.manual_seed(config.seed)
    model = MultVAE(list(attributes.subjects.values()), config)
    optimizer = Adam(model.parameters(), config.learning_rate)
    random, order = torch.Generator().manual_seed(config.seed), np.random.default_rng(config.seed)
    popularity = np.zeros(attributes.weights.shape[1])
    mornings: dict[int, Tastes] = {}
    axes: Floats | None = None
    batches = 0
    with one_thread(), bar(None, "Mult-VAE", "night") as shown:
        for today in viewed.days():
            starts, ends = bags_of(viewed, today)
            popularity += np.asarray(attributes.rows(viewed.document[viewed.day == today]).sum(axis=0)).ravel()
            users = bags(viewed, attributes, starts, ends)
            model.train()
            for _ in range(config.epochs):
                shuffled = order.permutation(len(starts))
                for first in range(0, len(shuffled), config.batch):
                    chosen = users[shuffled[first : first + config.batch]]
                    loss = model.loss(chosen, config.beta * min(1.0, batches / config.anneal), random)
                    loss.backward()
                    optimizer.step()
                    batches += 1
            if axes is None:  # of the first night; later ones go on from there
                z = Tastes.of(model, popularity, np.eye(config.dim, dtype=np.float32)).taste(users[:10_000])
                scatter = np.cov(z, rowvar=False, bias=len(z) == 1)  # n - 1 would divide by 0
                axes = principal_axes(scatter.reshape(config.dim, config.dim))
            mornings[today + 1] = Tastes.of(model, popularity, axes)
            shown.update(1)
    return mornings


def bags_of(viewed: Viewed, today: int) -> tuple[Longs, Longs]:
    """Of each user who viewed something today: where its views begin, and where today's end. (n,) each"""
    until = np.flatnonzero(viewed.day <= today)  # of each user the first ones
    user = viewed.user[until]
    last = np.flatnonzero(np.append(user[1:] != user[:-1], True)) if len(user) else np.zeros(0, np.int64)
    first = np.append(0, last[:-1] + 1) if len(last) else last
    active = viewed.day[until[last]] == today
    return until[first[active]], until[last[active]] + 1


def bags(viewed: Viewed, attributes: Attributes, starts: Longs, ends: Longs) -> sp.csr_matrix:
    """(n, A): the attributes of the views starts[i] : ends[i], summed."""
    lengths = ends - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    at = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, lengths)
    picked = sp.csr_matrix((np.ones(len(at), np.float32), np.arange(len(at)), offsets), (len(starts), len(at)))
    return (picked @ attributes.rows(viewed.document[at])).astype(np.float32)
