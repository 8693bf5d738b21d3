"""Factors of each morning: what is known when, of whom, and of documents that nobody has viewed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from pipeline.collaborative.attributes import Attributes
from pipeline.collaborative.ials import FactorConfig
from pipeline.collaborative.nightly import NightlyFactors, vocabulary
from pipeline.collaborative.viewed import Viewed

CONFIG = FactorConfig(dim=4, alpha=10.0, reg=1.0, sweeps=5)
DOCUMENTS = np.arange(100, 140)


@pytest.fixture(scope="module")
def viewed() -> Viewed:
    """300 users read, over four days, documents of one of two topics (a document's topic is its parity)."""
    random = np.random.default_rng(1)
    user = np.repeat(np.arange(300), 8)
    document = 100 + 2 * random.integers(0, 19, len(user)) + user % 2  # 138 and 139 are never viewed
    day = np.sort(random.integers(0, 4, (300, 8)), axis=1).ravel()
    return Viewed(user.astype(np.int32), document.astype(np.uint32), day.astype(np.int8))


@pytest.fixture(scope="module")
def attributes() -> Attributes:
    weights = sp.csr_matrix(np.eye(2, dtype=np.float32)[DOCUMENTS % 2])
    return Attributes(DOCUMENTS.astype(np.int64), weights, {"topic": range(2)})


@pytest.fixture(scope="module")
def factors(viewed: Viewed, attributes: Attributes) -> NightlyFactors:
    return NightlyFactors(CONFIG, 3, 2, attributes).fit(viewed)


def test_codes_do_not_tell_the_future() -> None:
    document = np.array([7, 7, 5, 5, 5, 9, 9, 3])
    day = np.array([0, 2, 1, 1, 3, 0, 0, 0])
    found = vocabulary(document, day, least=2)
    assert found.documents.tolist() == [5, 7, 9]
    assert found.day.tolist() == [0, 1, 2]
    assert found.code(np.array([9, 5, 7, 3, 4])).tolist() == [0, 1, 2, -1, -1]
    earlier = vocabulary(document[day < 2], day[day < 2], least=2)
    assert earlier.code(np.array([9, 5, 7])).tolist() == [0, 1, -1]


def test_a_morning_does_not_know_the_days_after_it(
    viewed: Viewed, attributes: Attributes, factors: NightlyFactors
) -> None:
    early = viewed.day < 2
    cut = Viewed(viewed.user[early], viewed.document[early], viewed.day[early])
    found = NightlyFactors(CONFIG, 3, 2, attributes).fit(cut)
    assert sorted(found.mornings) == [1, 2]
    assert sorted(factors.mornings) == [1, 2, 3, 4]
    for day in (1, 2):
        ours, theirs = found.mornings[day], factors.mornings[day]
        for name in ("items", "square", "mean", "mapping"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_reader_of_one_topic_prefers_it_even_where_nobody_has_viewed_the_document(factors: NightlyFactors) -> None:
    morning = factors.mornings[4]
    documents = np.array([101, 103, 105, 138, 139, 999])
    items = factors.factors(morning, documents)
    assert np.isnan(items[5]).all(), "nothing is known of it"
    assert not np.isnan(items[:5]).any()
    display, read = np.array([0, 0, 0, 2, 2]), np.array([0, 1, 1, 5, 2])
    users = factors.fold_in(morning, display, read, items, 3)
    assert np.isnan(users[1]).all(), "has viewed nothing"
    for user in (users[0], users[2]):
        assert user @ items[4] > user @ items[3] + 0.1
    once = factors.fold_in(morning, display[[0, 1]], read[[0, 1]], items, 3)
    np.testing.assert_array_equal(once[0], users[0])


def test_the_map_from_attributes_is_the_ridge_regression(factors: NightlyFactors, viewed: Viewed) -> None:
    morning = factors.mornings[4]
    known = np.array([d for d in DOCUMENTS if factors.vocabulary.code(np.array([d]))[0] >= 0])
    items = morning.items[factors.vocabulary.code(known)].astype(np.float64)
    pairs = {(u, d) for u, d in zip(viewed.user.tolist(), viewed.document.tolist(), strict=True)}
    viewers = np.array([sum(d == document for _, d in pairs) for document in known])
    a, w = np.eye(2)[known % 2], np.diag(viewers / viewers.mean())
    expected = np.linalg.solve(a.T @ w @ a + np.eye(2), a.T @ w @ items)
    np.testing.assert_allclose(morning.mapping, expected, rtol=1e-4, atol=1e-5)


def test_no_views_at_all(attributes: Attributes, viewed: Viewed) -> None:
    empty = replace(viewed, user=viewed.user[:0], document=viewed.document[:0], day=viewed.day[:0])
    found = NightlyFactors(CONFIG, 3, 2, attributes).fit(empty)
    assert found.mornings == {}
