"""MAP@12, AUC and log loss against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata

from pipeline import metrics
from pipeline.metrics import (
    DivergedError,
    Judged,
    Labelled,
    auc,
    evaluate,
    log_loss,
    map12,
    quality,
    reciprocal_rank,
    softmax,
    standard_error,
    tie_hash,
    weighted,
    weighted_mean,
)

MASK = 2**64 - 1


def make_labels(lengths: list[int], seed: int = 1, without_click: tuple[int, ...] = ()) -> Labelled:
    """Displays of these lengths, with ids as large as they come, one click each and some slices."""
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    clicked = np.zeros(offsets[-1], np.uint8)
    for display, (first, length) in enumerate(zip(offsets, lengths, strict=False)):
        if display not in without_click:
            clicked[first + random.integers(length)] = 1
    ad_id = [random.choice(2**32 - 1, length, replace=False).astype(np.uint32) for length in lengths]
    return Labelled(
        clicked=clicked,
        offsets=offsets,
        display_id=np.sort(random.choice(2**32 - 1, len(lengths), replace=False).astype(np.uint32)),
        ad_id=np.concatenate(ad_id),
        slices={name: random.random(len(lengths)) < 0.4 for name in ("future", "cold_ad", "cold_user")},
    )


def gain_of(score: NDArray[Any], labels: Labelled) -> NDArray[np.float64]:
    return reciprocal_rank(score, labels.clicked, labels.offsets, labels.display_id, labels.ad_id)


def hash_of(display_id: int, ad_id: int) -> int:
    """splitmix64, in Python's whole numbers."""
    x = ((display_id << 32 | ad_id) + 0x9E3779B97F4A7C15) & MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def naive_gain(score: NDArray[Any], labels: Labelled) -> list[float]:
    result = []
    for display, first in enumerate(labels.offsets[:-1]):
        rows = range(first, labels.offsets[display + 1])
        best = sorted(rows, key=lambda r: (-score[r], hash_of(int(labels.display_id[display]), int(labels.ad_id[r]))))
        ranks = [1 / rank for rank, row in enumerate(best[:12], 1) if labels.clicked[row]]
        result.append(sum(ranks))
    return result


LENGTHS = [1, 2, 3, 12, 13, 14, 30, 2, 12, 5, 40, 1, 6, 7] * 5


@pytest.mark.parametrize("levels", [1, 2, 5, 10**6], ids=lambda n: f"{n} values")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reciprocal_rank(levels: int, dtype: Any) -> None:
    """Few values make many ties; displays of more than 12 ads are cut."""
    labels = make_labels(LENGTHS, without_click=(0, 4, 69))
    score = np.random.default_rng(2).integers(0, levels, len(labels.clicked)).astype(dtype) / dtype(levels) - dtype(0.5)
    gain = gain_of(score, labels)
    assert gain.tolist() == naive_gain(score, labels)
    assert gain[0] == gain[4] == gain[69] == 0.0
    assert (gain[np.array(LENGTHS) > 12] == 0).any(), "no click beyond the twelfth place in this test"


def test_the_cut_is_after_the_twelfth() -> None:
    labels = make_labels([20])
    for rank in range(1, 21):
        clicked = np.zeros(20, np.uint8)
        clicked[rank - 1] = 1
        gain = gain_of(-np.arange(20.0), replace(labels, clicked=clicked))
        assert gain.tolist() == [1 / rank if rank <= 12 else 0]


def test_the_hash_is_splitmix64() -> None:
    labels = make_labels([7] * 30)
    display_id = np.repeat(labels.display_id, 7)
    expected = [hash_of(int(d), int(a)) for d, a in zip(display_id, labels.ad_id, strict=True)]
    assert tie_hash(display_id, labels.ad_id).tolist() == expected


def test_two_clicks_in_a_display_are_an_error() -> None:
    labels = make_labels([3, 3])
    labels.clicked[:2] = 1
    with pytest.raises(ValueError, match="more than one click"):
        gain_of(np.zeros(6), labels)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_mean_divergence(bad: float) -> None:
    labels = make_labels([3, 3])
    score = np.zeros(6, np.float32)
    score[-1] = bad
    with pytest.raises(DivergedError, match="must be finite"):
        gain_of(score, labels)
    with pytest.raises(DivergedError):
        map12(score, labels)
    with pytest.raises(DivergedError):
        evaluate(score, labels)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = make_labels(LENGTHS, without_click=(3, 8))
    score = np.random.default_rng(3).integers(0, 4, len(labels.clicked)).astype(np.float32)
    whole, losses = gain_of(score, labels), Judged.of(score, labels).loss
    for size in (1, 3, len(LENGTHS) - 1, len(LENGTHS)):
        monkeypatch.setattr(metrics, "_CHUNK_DISPLAYS", size)
        assert gain_of(score, labels).tolist() == whole.tolist()
        assert Judged.of(score, labels).loss.tolist() == losses.tolist()
    labels.clicked[-7:] = 1
    monkeypatch.setattr(metrics, "_CHUNK_DISPLAYS", 3)
    with pytest.raises(ValueError, match="more than one click"):
        gain_of(score, labels)


def test_no_displays() -> None:
    labels = make_labels([1])
    empty = replace(labels, clicked=labels.clicked[:0], offsets=labels.offsets[:1], ad_id=labels.ad_id[:0])
    assert gain_of(np.zeros(0, np.float32), empty).tolist() == []


def test_constant_scores_rank_by_chance_wherever_the_click_stands() -> None:
    """If ties followed the file's order, a click that stands first would always win."""
    lengths = [2, 3, 4, 6, 8, 12, 15] * 600
    labels = make_labels(lengths)
    expected = np.mean([sum(1 / k for k in range(1, min(n, 12) + 1)) / n for n in lengths])
    for place in (0, -1):
        clicked = np.zeros(len(labels.clicked), np.uint8)
        clicked[labels.offsets[:-1] if place == 0 else labels.offsets[1:] - 1] = 1
        gain = gain_of(np.zeros(len(clicked), np.float32), replace(labels, clicked=clicked))
        assert abs(gain.mean() - expected) < 4 * gain.std() / math.sqrt(len(gain))
    consecutive = np.concatenate([np.arange(n) for n in lengths]).astype(np.uint32)
    clicked = np.zeros(len(labels.clicked), np.uint8)
    clicked[labels.offsets[:-1]] = 1
    low_ids = replace(labels, ad_id=consecutive, clicked=clicked, display_id=np.arange(len(lengths), dtype=np.uint32))
    gain = gain_of(np.zeros(len(clicked), np.float32), low_ids)
    assert abs(gain.mean() - expected) < 4 * gain.std() / math.sqrt(len(gain)), "low ids must not win ties either"


def test_the_order_of_the_file_does_not_matter() -> None:
    labels = make_labels(LENGTHS)
    random = np.random.default_rng(4)
    score = random.integers(0, 3, len(labels.clicked)).astype(np.float32)
    order = np.concatenate(
        [first + random.permutation(length) for first, length in zip(labels.offsets, LENGTHS, strict=False)]
    )
    assert order.tolist() != list(range(len(order)))
    shuffled = replace(labels, clicked=labels.clicked[order], ad_id=labels.ad_id[order])
    assert gain_of(score[order], shuffled).tolist() == gain_of(score, labels).tolist()
    assert auc(score[order], shuffled.clicked) == auc(score, labels.clicked)


# --- AUC and log loss ---------------------------------------------------------------------------------------------


def rank_auc(score: NDArray[Any], clicked: NDArray[Any]) -> float:
    positive = int(clicked.sum())
    total = float(rankdata(score)[clicked == 1].sum())
    return (total - positive * (positive + 1) / 2) / (positive * (len(clicked) - positive))


@pytest.mark.parametrize("levels", [1, 2, 7, 10**9], ids=lambda n: f"{n} values")
def test_auc(levels: int) -> None:
    random = np.random.default_rng(5)
    clicked = (random.random(3000) < 0.2).astype(np.uint8)
    score = (random.integers(-levels, levels, 3000) / levels * 30 + clicked).astype(np.float32)
    assert auc(score, clicked) == pytest.approx(rank_auc(score, clicked), abs=1e-12)
    pairs = score[clicked == 1][:, None] - score[clicked == 0][None, :]
    assert auc(score, clicked) == pytest.approx(float(((pairs > 0) + 0.5 * (pairs == 0)).mean()), abs=1e-12)


def test_auc_of_both_zeros_and_extremes() -> None:
    values = [-np.inf, -3.4e38, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, 3.4e38, np.inf]
    score = np.array(values * 3, np.float32)
    clicked = np.random.default_rng(6).integers(0, 2, 30).astype(np.uint8)
    assert auc(score, clicked) == pytest.approx(rank_auc(score, clicked), abs=1e-12)
    assert auc(np.array([-0.0, 0.0], np.float32), np.array([0, 1])) == 0.5
    assert auc(np.array([0.0, -0.0], np.float32), np.array([0, 1])) == 0.5
    assert auc(np.array([-1e-45, 0.0], np.float32), np.array([0, 1])) == 1.0


@pytest.mark.parametrize("clicked", [[0, 0], [1, 1], []])
def test_auc_of_one_class_is_not_a_number(clicked: list[int]) -> None:
    assert math.isnan(auc(np.zeros(len(clicked), np.float32), np.array(clicked, np.uint8)))


def test_log_loss() -> None:
    random = np.random.default_rng(7)
    score = random.normal(0, 3, 1000).astype(np.float32)
    clicked = random.integers(0, 2, 1000)
    p = 1 / (1 + np.exp(-score.astype(np.float64)))
    expected = -np.mean(np.log(np.where(clicked == 1, p, 1 - p)))
    assert log_loss(score, clicked) == pytest.approx(expected, rel=1e-12)
    assert log_loss(np.array([1000.0, -1000.0]), np.array([0, 1])) == 1000.0
    assert log_loss(np.array([1000.0, -1000.0]), np.array([1, 0])) == 0.0
    assert log_loss(np.zeros(0), np.zeros(0)) == 0.0


# --- slices -------------------------------------------------------------------------------------------------------


def test_weights_are_those_of_the_leaderboard() -> None:
    assert weighted(1.0, 0.0) == 0.4767
    assert weighted(0.0, 1.0) == 0.5233
    assert weighted(0.6, None) == 0.6
    assert weighted(None, 0.7) == 0.7
    assert math.isnan(weighted(None, None))
    gain, future = np.array([1.0, 0.5, 0.25, 0.25]), np.array([False, False, True, True])
    assert weighted_mean(gain, future) == pytest.approx(0.4767 * 0.75 + 0.5233 * 0.25)
    assert weighted_mean(gain, np.ones(4, bool)) == weighted_mean(gain, np.zeros(4, bool)) == 0.5


def test_evaluate_by_slice() -> None:
    labels = make_labels(LENGTHS)
    labels.slices["cold_page"] = np.zeros(len(LENGTHS), bool)
    score = np.random.default_rng(8).normal(0, 1, len(labels.clicked)).astype(np.float32) + labels.clicked
    rows = evaluate(score, labels)
    assert [row["slice"] for row in rows] == ["weighted", "present", "future", "cold_ad", "cold_user"]
    gain = np.array(naive_gain(score, labels))
    masks = {"present": ~labels.slices["future"], **labels.slices}
    for row in rows[1:]:
        mask = masks[row["slice"]]
        chosen = np.repeat(mask, LENGTHS)
        assert row["displays"] == mask.sum()
        assert row["rows"] == chosen.sum()
        assert row["map12"] == pytest.approx(gain[mask].mean())
        assert row["auc"] == pytest.approx(rank_auc(score[chosen], labels.clicked[chosen]))
        assert row["logloss"] == log_loss(score[chosen], labels.clicked[chosen])
    total, present, future = rows[:3]
    assert (total["displays"], total["rows"]) == (len(LENGTHS), len(score))
    for name in ("map12", "auc", "logloss"):
        assert total[name] == pytest.approx(0.4767 * present[name] + 0.5233 * future[name])
    assert total["map12"] == map12(score, labels)


@pytest.mark.parametrize("future", [False, True])
def test_evaluate_without_present_or_without_future(future: bool) -> None:
    labels = make_labels(LENGTHS)
    labels.slices["future"][:] = future
    score = np.random.default_rng(9).normal(0, 1, len(labels.clicked)).astype(np.float32)
    rows = {row["slice"]: row for row in evaluate(score, labels)}
    assert ("future" in rows, "present" in rows) == (future, not future)
    alone = rows["future" if future else "present"]
    assert all(rows["weighted"][name] == alone[name] for name in alone if name != "slice")


def test_losses_are_those_of_a_softmax() -> None:
    """Against a loop over displays; the chances are those of whom it says to click."""
    labels = make_labels([2, 5, 12, 1, 7] * 20)
    score = np.random.default_rng(0).normal(0, 9, len(labels.clicked)).astype(np.float32)
    found, chances = Judged.of(score, labels), softmax(score.astype(float), labels.offsets, labels.clicked)[1]
    for d, (start, end) in enumerate(pairwise(labels.offsets)):
        odds = np.exp(score[start:end].astype(float))
        click = labels.clicked[start:end] != 0
        np.testing.assert_allclose(chances[start:end], odds / odds.sum())
        assert found.loss[d] == pytest.approx(-np.log(odds[click] / odds.sum())[0])
    np.testing.assert_array_equal(found.gain, gain_of(score, labels))


def test_quality_at_the_best_scale() -> None:
    """Whatever the scores are multiplied by: MAP@12, and the least loss of any scale; by some displays if there are
    many."""
    labels = make_labels([2, 5, 12, 1, 7] * 40)
    random = np.random.default_rng(0)
    score = np.where(labels.clicked != 0, 0.5, 0.0) + random.normal(0, 0.5, len(labels.clicked))
    found, future = quality(score, labels), labels.slices["future"]

    def loss(scale: float) -> float:
        return weighted_mean(Judged.of(scale * score, labels).loss, future)

    everywhere = minimize_scalar(lambda scale: Judged.of(scale * score, labels).loss.mean(), bounds=(0, 10)).x
    assert found.map12 == map12(score, labels)
    assert found.loss == pytest.approx(loss(everywhere), abs=1e-6)
    assert found.worth == found.map12 - found.loss
    assert quality(3 * score, labels).loss == pytest.approx(found.loss, abs=1e-6)
    assert quality(-score, labels).loss == pytest.approx(loss(0.0), abs=1e-4), "what is wrong is worth nothing"


def test_the_scale_is_found_by_some_displays(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = make_labels([2, 5, 12, 1, 7] * 400)
    random = np.random.default_rng(0)
    score = np.where(labels.clicked != 0, 0.5, 0.0) + random.normal(0, 0.5, len(labels.clicked))
    whole = quality(score, labels)
    monkeypatch.setattr(metrics, "_SCALED_DISPLAYS", 700)
    assert quality(score, labels).loss != whole.loss
    assert quality(score, labels).loss == pytest.approx(whole.loss, rel=0.005)


def test_standard_error_of_the_weighted_mean() -> None:
    """Against the spread of the weighted mean in repeated draws; few future displays count for half of it."""
    random, future = np.random.default_rng(0), np.arange(500) >= 460
    draws, errors = [], []
    for _ in range(2000):
        value = np.where(future, random.normal(0, 2, 500), random.normal(0, 1, 500))
        draws.append(0.4767 * value[~future].mean() + 0.5233 * value[future].mean())
        errors.append(standard_error(value, future))
    assert np.mean(errors) == pytest.approx(np.std(draws), rel=0.05)
    value = random.normal(0, 1, 500)
    for alone in (np.zeros(500, dtype=bool), np.ones(500, dtype=bool)):
        assert standard_error(value, alone) == pytest.approx(value.std() / np.sqrt(500))
