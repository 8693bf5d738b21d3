"""Which parameter set replaces the defaults: one that is likelier by more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.metrics import Judged, map12, weighted_mean
from pipeline.schemas.predictions import labels_of
from pipeline.tuning.winner import JUDGED, ahead, luck, packed, unpacked, winner
from tests.synthetic import write_mixed

DISPLAYS = 1000
FUTURE = np.arange(DISPLAYS) % 3 == 0


def ranked(chance: NDArray[np.float64], random: np.random.Generator) -> Judged:
    """A ranking that gives the click these chances (D,): the likelier, the more often it is on top."""
    on_top = random.random(DISPLAYS) < chance
    return Judged(np.where(on_top, 1.0, 1 / random.integers(2, 6, DISPLAYS)), -np.log(chance))


def some(random: np.random.Generator) -> NDArray[np.float64]:
    return random.uniform(0.1, 0.5, DISPLAYS)


def moved(chance: NDArray[np.float64], by: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Other chances, whose logarithms are higher by so much on average."""
    return np.clip(chance * np.exp(by + random.normal(0, 0.2, DISPLAYS)), 0.01, 0.99)


def trial(x: float, found: Judged | None, *, defaults: bool = False) -> FrozenTrial:
    """found: None if it has diverged."""
    attributes = ({"defaults": True} if defaults else {}) | ({} if found is None else {JUDGED: packed(found)})
    value = 0.0 if found is None else weighted_mean(found.gain, FUTURE)
    return create_trial(
        value=value, params={"x": x}, distributions={"x": FloatDistribution(0, 9)}, user_attrs=attributes
    )


def pruned(x: float) -> FrozenTrial:
    return create_trial(
        state=TrialState.PRUNED, params={"x": x}, distributions={"x": FloatDistribution(0, 9)}, value=0.99
    )


def test_what_is_judged(tmp_path: Path) -> None:
    """Gains are those of MAP@12; a wrong scale costs no loss, and the best one is as good as any."""
    target = write_mixed(tmp_path / "encoded").part("target")
    labels = labels_of(target)
    score = np.where(target.array("clicked"), 1.0, 0.0) + np.random.default_rng(0).normal(size=target.rows)
    score = score.astype(np.float32)
    found, scaled = Judged.scaled(score, labels), Judged.scaled(3 * score, labels)
    future = np.asarray(target.array("future"))
    assert weighted_mean(found.gain, future) == pytest.approx(map12(score, labels))
    np.testing.assert_allclose(found.loss, scaled.loss, atol=1e-3)
    for scale in (0.3, 0.9, 1.0, 1.1, 3):
        assert found.loss.mean() <= Judged.of(score * np.float32(scale), labels).loss.mean() + 1e-6


def test_packed() -> None:
    """Small, and nearly as precise as what was packed."""
    random, many = np.random.default_rng(0), 100_000
    gain = np.where(random.random(many) < 0.05, 0.0, 1 / random.integers(1, 13, many))
    found = Judged(gain, random.exponential(1.2, many))
    back = unpacked(packed(found))
    np.testing.assert_allclose(back.gain, found.gain)
    np.testing.assert_allclose(back.loss, found.loss, rtol=1e-3, atol=1e-6)
    assert len(packed(found)) < 4 * many


def test_the_standard_error_is_that_of_repeated_draws() -> None:
    """Of two rankings that agree in most displays, whose difference is much less uncertain than either."""
    random, found = np.random.default_rng(1), []
    for _ in range(400):
        base = some(random)
        other = np.where(random.random(DISPLAYS) < 0.1, some(random), base)
        found.append(ahead(other, base, FUTURE))
    differences, errors = np.array(found).T
    assert errors.mean() == pytest.approx(differences.std(), rel=0.1)
    assert errors.mean() < 0.5 * base.std() / np.sqrt(DISPLAYS)


@pytest.mark.parametrize("tried", [1, 3, 20])
@pytest.mark.parametrize(("by", "most"), [(-0.02, 0.2), (-0.03, 0.04)], ids=["as good", "a little worse"])
def test_luck_seldom_wins(tried: int, by: float, most: float) -> None:
    """Of sets as good as the defaults (their chances vary, which costs 0.02) the best one nearly always looks better,
    but seldom wins."""
    random, won = np.random.default_rng(3), 0
    for _ in range(100):
        chance = some(random)
        sets = [ranked(moved(chance, by + 0.02, random), random) for _ in range(tried)]
        trials = [trial(0, ranked(chance, random), defaults=True), *(trial(1 + i / 10, s) for i, s in enumerate(sets))]
        won += winner(trials, FUTURE) is not None
    assert won / 100 < most


def test_what_is_likelier_wins() -> None:
    """Though MAP@12 could not tell it from the defaults."""
    random = np.random.default_rng(4)
    chance = some(random)
    base, other = ranked(chance, random), ranked(chance, random)
    likelier = Judged(other.gain, -np.log(moved(chance, 0.05, random)))
    gain, error = ahead(likelier.gain, base.gain, FUTURE)
    assert abs(gain) < error
    trials = [trial(0, base, defaults=True), trial(1, base), trial(2, likelier), pruned(3)]
    assert winner(trials, FUTURE) is trials[2]
    assert winner(trials[:2], FUTURE) is None


def test_what_ranks_worse_loses() -> None:
    random = np.random.default_rng(5)
    chance = some(random)
    base = ranked(chance, random)
    worse = Judged(np.where(random.random(DISPLAYS) < 0.1, 1 / 6, base.gain), -np.log(moved(chance, 0.1, random)))
    assert winner([trial(0, base, defaults=True), trial(1, worse)], FUTURE) is None


def test_defaults_that_diverge_lose() -> None:
    random = np.random.default_rng(6)
    base, diverged, learned = trial(0, None, defaults=True), trial(1, None), trial(2, ranked(some(random), random))
    assert winner([base, diverged], FUTURE) is None
    assert winner([base, diverged, learned], FUTURE) is learned


def test_the_more_are_tried_the_more_is_luck() -> None:
    expected: Sequence[float] = [float(np.random.default_rng(6).normal(size=(4000, n)).max(1).mean()) for n in (3, 30)]
    assert luck(1) == luck(0) == 1
    for n, of_n in zip((3, 30), expected, strict=True):
        assert luck(n) == pytest.approx(max(1, of_n), rel=0.03)
