"""The user's state: made of the past alone, against its equations, learned from data in which order matters, and what
became of ads."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from pipeline.collaborative.attributes import Attributes
from pipeline.collaborative.dkt import Batch, DKTConfig, Tracer, fit_traces, normalised, pack
from pipeline.collaborative.viewed import CLICKED, PASSED, VIEWED, Traced

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


def traced(user: np.ndarray, document: np.ndarray, time: np.ndarray, what: np.ndarray) -> Traced:
    """time: in thirds of a day."""
    return Traced(
        user.astype(np.int32), document.astype(np.uint32), (time // 3).astype(np.int8), time, what.astype(np.int8)
    )


@pytest.fixture(scope="module")
def viewed() -> Traced:
    """200 users view, over three days, each time a document of the topic that follows the last one's."""
    random = np.random.default_rng(1)
    topic = (random.integers(0, TOPICS, 200)[:, None] + np.arange(9)) % TOPICS
    document = (topic + TOPICS * random.integers(0, 9, topic.shape)).ravel()  # 45..49 are never viewed
    return traced(np.repeat(np.arange(200), 9), document, np.tile(np.arange(9), 200), np.full(1800, VIEWED))


@pytest.fixture(scope="module")
def shown() -> Traced:
    """200 users, nine times each: a page of topic 0, three ads of other topics, of which it clicks always the same."""
    random = np.random.default_rng(2)
    ads = np.argsort(random.random((200, 9, TOPICS - 1)), axis=2)[:, :, : TOPICS - 2] + 1
    liked = random.integers(1, TOPICS, 200)
    what = np.where(ads == liked[:, None, None], CLICKED, PASSED)
    topic = np.concatenate([np.zeros((200, 9, 1), int), ads], axis=2)
    what = np.concatenate([np.full((200, 9, 1), VIEWED), what], axis=2)
    order = np.argsort(what, axis=2, kind="stable")
    topic, what = np.take_along_axis(topic, order, 2), np.take_along_axis(what, order, 2)
    document, time = topic + TOPICS * random.integers(0, 9, topic.shape), np.arange(9)[:, None]
    user = np.arange(200)[:, None, None]
    return traced(*(np.broadcast_to(a, topic.shape).ravel() for a in (user, document, time, what)))


def test_the_loss_is_the_likelihood_of_what_comes_next(network: Tracer) -> None:
    """Against a loop: three users, of whom one views and is shown two displays, in one of which nothing is clicked."""
    torch.nn.init.normal_(network.became)
    documents = np.eye(TOPICS, dtype=np.float32)[[0, 1, 2, 2, 3, 4]]
    elements = [
        [(0, VIEWED, 0), (1, PASSED, 0), (2, PASSED, 0), (4, CLICKED, 0), (3, VIEWED, 1), (5, PASSED, 1)],
        [(3, VIEWED, 0), (0, VIEWED, 2)],
        [(2, CLICKED, 4)],
    ]
    filled = np.array([user + [(0, VIEWED, 0)] * (6 - len(user)) for user in elements])
    known = np.arange(6) < np.array([[len(user)] for user in elements])
    batch = Batch.of(*np.moveaxis(filled, 2, 0), known)
    found = network.loss(sp.csr_matrix(documents), batch).item()

    e = torch.from_numpy(documents) @ network.embedding

    def state(past: list[tuple[int, int, int]]) -> torch.Tensor:
        h = torch.zeros(1, CONFIG.hidden)
        for document, what, _ in past:
            h = network.recurrent((e[document] + network.became[what])[None], h)
        return network.readout(h)[0]

    views = [(3, state(elements[0][:4])), (0, state(elements[1][:1]))]
    total = 0.0
    for target, y in views:
        scores = torch.stack([e[d] @ y for d, _ in views])  # a document as often as it comes next
        total -= (e[target] @ y - scores.logsumexp(0)).item()
    y = state(elements[0][:1])  # of the page: what stands on it is chosen at once
    total -= (torch.stack([e[d] @ y for d in (4, 1, 2)]).log_softmax(0)[0]).item()
    assert found == pytest.approx(total / 3, rel=1e-5)


def test_others_of_the_batch_change_nothing(network: Tracer) -> None:
    embeddings = np.random.default_rng(2).normal(size=(30, CONFIG.dim)).astype(np.float32)
    sequence, lengths = np.random.default_rng(3).integers(0, 30, (700, 6)), np.random.default_rng(4).integers(1, 7, 700)
    what = np.random.default_rng(5).integers(0, 3, (700, 6))
    torch.nn.init.normal_(network.became)
    whole = network.read_out(embeddings, sequence, what, lengths)
    some = slice(600, 640)
    np.testing.assert_array_equal(network.read_out(embeddings, sequence[some], what[some], lengths[some]), whole[some])
    padded = np.where(np.arange(6) < lengths[:, None], sequence, 7)
    np.testing.assert_array_equal(network.read_out(embeddings, padded, what, lengths), whole)
    for u in range(20):  # against torch's own cell
        h = torch.zeros(1, CONFIG.hidden)
        for document, q in zip(sequence[u, : lengths[u]], what[u], strict=False):
            h = network.recurrent((torch.from_numpy(embeddings[document]) + network.became[q])[None], h)
        np.testing.assert_allclose(whole[u], network.readout(h)[0].detach().numpy(), atol=1e-5)


def test_the_order_is_learned(viewed: Traced, attributes: Attributes) -> None:
    """The topic that follows stands above the others, also by documents that nobody has viewed."""
    network = fit_traces(viewed, attributes, CONFIG)[3].network
    embeddings = network.documents(normalised(attributes.weights))
    sequence, known = pack(viewed.document.astype(np.int64), np.arange(0, 1800, 9), np.arange(8, 1808, 9), 6)
    y = network.read_out(embeddings, sequence, np.full(sequence.shape, VIEWED), known.sum(axis=1))
    best = (y @ embeddings[45:].T).argmax(axis=1)
    assert (best == (sequence[:, -1] + 1) % TOPICS).mean() > 0.95


def test_what_became_of_ads_is_learned(shown: Traced, attributes: Attributes) -> None:
    """The topic that was clicked stands above the others, and so does the one that alone was not passed over."""
    network = fit_traces(shown, attributes, replace(CONFIG, epochs=12))[3].network
    embeddings = network.documents(normalised(attributes.weights))

    def best(topics: np.ndarray, became: list[int]) -> np.ndarray:
        page = np.zeros((len(topics), 1), int)
        sequence = np.concatenate([page, topics, page], axis=1)
        what = np.tile([VIEWED, *became, VIEWED], (len(topics), 1))
        y = network.read_out(embeddings, sequence, what, np.full(len(topics), sequence.shape[1]))
        return (y @ embeddings[1:TOPICS].T).argmax(axis=1) + 1

    orders = np.array(list(permutations(range(1, TOPICS))))
    assert (best(orders[:, :2], [PASSED, CLICKED]) == orders[:, 1]).mean() > 0.9
    assert (best(orders[:, :3], [PASSED] * 3) == orders[:, 3]).mean() > 0.9


@pytest.mark.parametrize("world", ["viewed", "shown"])
def test_a_morning_does_not_know_the_days_after_it(
    world: str, attributes: Attributes, request: pytest.FixtureRequest
) -> None:
    everything = request.getfixturevalue(world)
    early = everything.day < 1
    cut = Traced(*(getattr(everything, name)[early] for name in ("user", "document", "day", "time", "what")))
    found, whole = (fit_traces(t, attributes, CONFIG) for t in (cut, everything))
    assert (sorted(found), sorted(whole)) == ([1], [1, 2, 3])
    for name, weights in found[1].network.state_dict().items():
        torch.testing.assert_close(whole[1].network.state_dict()[name], weights, rtol=0, atol=0)
    np.testing.assert_array_equal(found[1].axes, whole[1].axes)


def test_pack() -> None:
    rows, known = pack(np.arange(10, 20), np.array([0, 3, 5]), np.array([2, 3, 10]), 3)
    assert rows.tolist() == [[10, 11, 0], [0, 0, 0], [17, 18, 19]]
    assert known.sum(axis=1).tolist() == [2, 0, 3]
