"""iALS against the dense equations, on data of its own kind, and night by night."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.collaborative.ials import FactorConfig, Lists, factorize, gram, objective, solve_rows, start

CONFIG = FactorConfig(dim=4, alpha=8.0, reg=0.5, sweeps=10)


def lists_of(dense: NDArray[np.bool_]) -> Lists:
    return Lists(np.concatenate([[0], np.cumsum(dense.sum(axis=1))]), np.nonzero(dense)[1].astype(np.int32))


@pytest.fixture
def low_rank() -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(viewed, probability): 400 users and 60 items in 4 communities, a view is likelier within one."""
    random = np.random.default_rng(1)
    user, item = random.integers(0, 4, 400), random.integers(0, 4, 60)
    probability = np.where(user[:, None] == item, 0.35, 0.02)
    return random.random(probability.shape) < probability, probability


def test_rows_solve_the_normal_equations(low_rank: tuple[NDArray[np.bool_], NDArray[np.float64]]) -> None:
    """Eq. 4, spelled out with dense matrices."""
    viewed, _ = low_rank
    items = start(np.random.default_rng(2), viewed.shape[1], CONFIG.dim)
    lists, users = lists_of(viewed), np.empty((len(viewed), CONFIG.dim), np.float32)
    solve_rows(lists, items, gram(items), CONFIG.alpha, CONFIG.reg, users)
    y = items.astype(np.float64)
    for row, prefers in zip(users, viewed.astype(np.float64), strict=True):
        c = np.diag(1 + CONFIG.alpha * prefers)
        expected = np.linalg.solve(y.T @ c @ y + CONFIG.reg * np.eye(CONFIG.dim), y.T @ c @ prefers)
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_the_objective_is_that_of_the_paper(low_rank: tuple[NDArray[np.bool_], NDArray[np.float64]]) -> None:
    viewed, _ = low_rank
    random = np.random.default_rng(3)
    users, items = start(random, len(viewed), 4), start(random, viewed.shape[1], 4)
    x, y, p = users.astype(np.float64), items.astype(np.float64), viewed.astype(np.float64)
    expected = ((1 + CONFIG.alpha * p) * (p - x @ y.T) ** 2).sum() + CONFIG.reg * ((x**2).sum() + (y**2).sum())
    assert objective(lists_of(viewed), users, items, CONFIG) == pytest.approx(expected, rel=1e-6)


def test_every_sweep_lowers_the_objective(low_rank: tuple[NDArray[np.bool_], NDArray[np.float64]]) -> None:
    lists = lists_of(low_rank[0])
    losses = []
    for sweeps in range(1, 8):
        config = FactorConfig(dim=4, alpha=8.0, reg=0.5, sweeps=sweeps)
        losses.append(objective(lists, *factorize(lists, 60, config), config))
    assert (np.diff(losses) < 0).all()


def test_low_rank_data_is_learned_back(low_rank: tuple[NDArray[np.bool_], NDArray[np.float64]]) -> None:
    """A tenth of the views is held out: nearly always they stand above what the user was unlikely to view."""
    viewed, probability = low_rank
    held_out = viewed & (np.random.default_rng(4).random(viewed.shape) < 0.1)
    users, items = factorize(lists_of(viewed & ~held_out), 60, CONFIG)
    score = users @ items.T
    positive, negative = score[held_out], score[~viewed & (probability < 0.1)]
    auc = (positive[:, None] > negative).mean()
    ideal = (probability[held_out] > 0.1).mean()  # the rest of the views came by chance
    assert len(positive) > 100
    assert auc > 0.95 * ideal


def test_users_and_items_without_views_have_no_factor() -> None:
    viewed = np.zeros((5, 6), bool)
    viewed[:3, :4] = np.random.default_rng(5).random((3, 4)) < 0.7
    users, items = factorize(lists_of(viewed), 6, CONFIG)
    assert not users[3:].any()
    assert not items[4:].any()
    assert users[viewed.any(axis=1)].any(axis=1).all()


def test_the_first_numbers_vary_most(low_rank: tuple[NDArray[np.bool_], NDArray[np.float64]]) -> None:
    _, items = factorize(lists_of(low_rank[0]), 60, CONFIG)
    square = gram(items)
    assert (np.diff(np.diag(square)) <= 0).all()
    np.testing.assert_allclose(square - np.diag(np.diag(square)), 0, atol=1e-4 * square.max())


def test_threads_change_nothing(low_rank: tuple[NDArray[np.bool_], NDArray[np.float64]]) -> None:
    lists = lists_of(low_rank[0])
    one, three = factorize(lists, 60, CONFIG, 1), factorize(lists, 60, CONFIG, 3)
    np.testing.assert_array_equal(one[0], three[0])
    np.testing.assert_array_equal(one[1], three[1])


def test_transposed(low_rank: tuple[NDArray[np.bool_], NDArray[np.float64]]) -> None:
    viewed, _ = low_rank
    turned, expected = lists_of(viewed).transposed(60), lists_of(viewed.T)
    np.testing.assert_array_equal(turned.offsets, expected.offsets)
    np.testing.assert_array_equal(turned.columns, expected.columns)
