"""Objectives of our own: their derivatives are those of the loss they are named after."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import pytest

from pipeline.metrics import Labelled, softmax
from pipeline.trees.objectives import Scores, listwise

LENGTHS = np.array([2, 12, 3, 5, 4])
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])


def displays(rng: np.random.Generator) -> tuple[Labelled, lgb.Dataset]:
    """One click in each display, as labels and as LightGBM's data."""
    clicked = np.zeros(OFFSETS[-1], np.uint8)
    clicked[OFFSETS[:-1] + rng.integers(0, LENGTHS)] = 1
    numbers = np.arange(len(clicked))
    labels = Labelled(clicked=clicked, offsets=OFFSETS, display_id=numbers[: len(LENGTHS)], ad_id=numbers, slices={})
    data = lgb.Dataset(numbers[:, None].astype(float), label=clicked, group=LENGTHS, params={"verbosity": -1})
    return labels, data.construct()


def test_listwise_derivatives_are_those_of_the_softmax() -> None:
    """By central differences of the loss, computed by other code."""
    rng = np.random.default_rng(1)
    labels, data = displays(rng)
    scores, step = rng.normal(size=OFFSETS[-1]), 1e-4
    slope, curvature = listwise(scores, data)

    def loss(z: Scores) -> float:
        return float(softmax(z, labels.offsets, labels.clicked)[0].sum())

    for i in range(len(scores)):
        moved = np.zeros(len(scores))
        moved[i] = step
        below, here, above = loss(scores - moved), loss(scores), loss(scores + moved)
        assert slope[i] == pytest.approx((above - below) / (2 * step), abs=1e-5)
        assert curvature[i] == pytest.approx((above - 2 * here + below) / step**2, abs=1e-4)
    np.testing.assert_allclose(np.add.reduceat(slope, OFFSETS[:-1]), 0, atol=1e-6)


def test_listwise_takes_any_scores() -> None:
    """Where a display is decided the slopes end, and no curvature is 0, by which a leaf's value is divided."""
    labels, data = displays(np.random.default_rng(2))
    for scores in (np.where(labels.clicked, 800.0, -800.0), np.where(labels.clicked, -800.0, 800.0)):
        slope, curvature = listwise(scores, data)
        assert np.isfinite(slope).all()
        assert (curvature > 0).all()
    right, _ = listwise(np.where(labels.clicked, 800.0, -800.0), data)
    np.testing.assert_array_equal(right, 0)


def test_a_display_shared_offset_changes_nothing() -> None:
    """What all ads of a display have in common cannot rank them."""
    rng = np.random.default_rng(3)
    _, data = displays(rng)
    scores = rng.normal(size=OFFSETS[-1])
    moved = scores + np.repeat(rng.normal(size=len(LENGTHS)) * 5, LENGTHS)
    for here, there in zip(listwise(scores, data), listwise(moved, data), strict=True):
        np.testing.assert_allclose(here, there, atol=1e-6)
