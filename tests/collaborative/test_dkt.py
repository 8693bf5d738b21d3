"""The user's state: made of the past alone, against its equations, learned from data in which order matters."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from pipeline.collaborative.attributes import Attributes
from pipeline.collaborative.dkt import DKTConfig, Tracer, fit_traces, normalised, pack
from pipeline.collaborative.viewed import Viewed

CONFIG = DKTConfig(dim=6, hidden=12, length=6, batch=16, epochs=3, learning_rate=2e-2)
TOPICS = 5


@pytest.fixture
def network() -> Tracer:
    torch.manual_seed(1)
    return Tracer(TOPICS, CONFIG)


@pytest.fixture(scope="module")
def attributes() -> Attributes:
    """Document d has the topic d % 5."""
    weights = sp.csr_matrix(np.eye(TOPICS, dtype=np.float32)[np.arange(50) % TOPICS])
    return Attributes(np.arange(50), weights, {"topic": range(TOPICS)})


@pytest.fixture(scope="module")
def viewed() -> Viewed:
    """200 users view, over three days, each time a document of the topic that follows the last one's."""
    random = np.random.default_rng(1)
    topic = (random.integers(0, TOPICS, 200)[:, None] + np.arange(9)) % TOPICS
    document = (topic + TOPICS * random.integers(0, 9, topic.shape)).ravel()  # 45..49 are never viewed
    user, day = np.repeat(np.arange(200), 9), np.tile(np.repeat(np.arange(3), 3), 200)
    return Viewed(user.astype(np.int32), document.astype(np.uint32), day.astype(np.int8))


def test_the_loss_is_the_likelihood_of_the_next_document(network: Tracer) -> None:
    documents = np.eye(TOPICS, dtype=np.float32)[[0, 1, 2, 2]]
    sequence, lengths = np.array([[0, 1, 2], [3, 0, 0], [2, 0, 0]]), np.array([3, 2, 1])
    found = network.loss(sp.csr_matrix(documents), sequence, lengths).item()
    e = torch.from_numpy(documents) @ network.embedding
    h = [network.recurrent(e[[0]]), network.recurrent(e[[3]])]
    states = network.readout(torch.cat([h[0], network.recurrent(e[[1]], h[0]), h[1]]))
    following = [1, 2, 0]  # x_2 and x_3 of the first user, x_2 of the second
    total = 0.0
    for state, target in zip(states, following, strict=True):
        scores = torch.stack([e[d] @ state for d in following])  # a document as often as it comes next
        total -= (e[target] @ state - scores.logsumexp(0)).item()
    assert found == pytest.approx(total / 3, rel=1e-5)


def test_others_of_the_batch_change_nothing(network: Tracer) -> None:
    embeddings = np.random.default_rng(2).normal(size=(30, CONFIG.dim)).astype(np.float32)
    sequence, lengths = np.random.default_rng(3).integers(0, 30, (700, 6)), np.random.default_rng(4).integers(1, 7, 700)
    whole = network.read_out(embeddings, sequence, lengths)
    np.testing.assert_array_equal(network.read_out(embeddings, sequence[600:640], lengths[600:640]), whole[600:640])
    padded = np.where(np.arange(6) < lengths[:, None], sequence, 7)
    np.testing.assert_array_equal(network.read_out(embeddings, padded, lengths), whole)


def test_the_order_is_learned(viewed: Viewed, attributes: Attributes) -> None:
    """The topic that follows stands above the others, also by documents that nobody has viewed."""
    network = fit_traces(viewed, attributes, CONFIG)[3].network
    embeddings = network.documents(normalised(attributes.weights))
    sequence, known = pack(viewed.document.astype(np.int64), np.arange(0, 1800, 9), np.arange(8, 1808, 9), 6)
    y = network.read_out(embeddings, sequence, known.sum(axis=1))
    best = (y @ embeddings[45:].T).argmax(axis=1)
    assert (best == (sequence[:, -1] + 1) % TOPICS).mean() > 0.95


def test_a_morning_does_not_know_the_days_after_it(viewed: Viewed, attributes: Attributes) -> None:
    early = viewed.day < 1
    cut = Viewed(viewed.user[early], viewed.document[early], viewed.day[early])
    found, whole = (fit_traces(v, attributes, CONFIG) for v in (cut, viewed))
    assert (sorted(found), sorted(whole)) == ([1], [1, 2, 3])
    for name, weights in found[1].network.state_dict().items():
        torch.testing.assert_close(whole[1].network.state_dict()[name], weights, rtol=0, atol=0)
    np.testing.assert_array_equal(found[1].axes, whole[1].axes)


def test_pack() -> None:
    rows, known = pack(np.arange(10, 20), np.array([0, 3, 5]), np.array([2, 3, 10]), 3)
    assert rows.tolist() == [[10, 11, 0], [0, 0, 0], [17, 18, 19]]
    assert known.sum(axis=1).tolist() == [2, 0, 3]
