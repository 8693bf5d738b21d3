"""Which parameter set replaces the defaults: one that is ahead by more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.metrics import FUTURE_WEIGHT, PRESENT_WEIGHT, map12
from pipeline.schemas.predictions import labels_of
from pipeline.tuning.winner import Gains, ahead, gains, luck, packed, unpacked, winner
from tests.synthetic import write_mixed

DISPLAYS = 1000
FUTURE = np.arange(DISPLAYS) % 3 == 0


def better(share: float, random: np.random.Generator) -> Gains:
    """Gains of a ranking that has that share of the clicks on top, and else anywhere."""
    return np.where(random.random(DISPLAYS) < share, 1.0, 1 / random.integers(1, 6, DISPLAYS))


def trial(x: float, gain: Gains | None, *, defaults: bool = False, value: float | None = None) -> FrozenTrial:
    attributes = ({"defaults": True} if defaults else {}) | ({} if gain is None else {"ranks": packed(gain)})
    if gain is not None:
        value = PRESENT_WEIGHT * float(gain[~FUTURE].mean()) + FUTURE_WEIGHT * float(gain[FUTURE].mean())
    return create_trial(
        value=value, params={"x": x}, distributions={"x": FloatDistribution(0, 9)}, user_attrs=attributes
    )


def test_gains_are_those_of_map12(tmp_path: Path) -> None:
    target = write_mixed(tmp_path / "encoded").part("target")
    score = np.random.default_rng(0).normal(size=target.rows).astype(np.float32)
    found = gains(score, target)
    np.testing.assert_allclose(unpacked(packed(found)), found)
    future = np.asarray(target.array("future"))
    assert ahead(found, np.zeros(target.displays), future)[0] == pytest.approx(map12(score, labels_of(target)))


def test_packed_gains_are_small() -> None:
    random = np.random.default_rng(0)
    gain = np.where(random.random(100_000) < 0.05, 0.0, 1 / random.integers(1, 7, 100_000))
    np.testing.assert_allclose(unpacked(packed(gain)), gain)
    assert len(packed(gain)) < 60_000


def test_the_standard_error_is_that_of_repeated_draws() -> None:
    """Of two rankings that agree in most displays, whose difference is much less uncertain than either."""
    random, found = np.random.default_rng(1), []
    for _ in range(400):
        base = better(0.3, random)
        gain = np.where(random.random(DISPLAYS) < 0.1, better(0.5, random), base)
        found.append(ahead(gain, base, FUTURE))
    differences, errors = np.array(found).T
    assert errors.mean() == pytest.approx(differences.std(), rel=0.1)
    assert errors.mean() < 0.5 * base.std() / np.sqrt(DISPLAYS)


@pytest.mark.parametrize("future", [np.zeros(DISPLAYS, bool), np.ones(DISPLAYS, bool)], ids=["present", "future"])
def test_targets_of_one_part(future: NDArray[np.bool_]) -> None:
    random = np.random.default_rng(2)
    base, gain = better(0.3, random), better(0.5, random)
    difference, error = ahead(gain, base, future)
    assert difference == pytest.approx((gain - base).mean())
    assert error == pytest.approx((gain - base).std() / np.sqrt(DISPLAYS), rel=1e-3)


@pytest.mark.parametrize("tried", [1, 3, 20])
@pytest.mark.parametrize(("share", "most"), [(0.3, 0.5), (0.25, 0.2)], ids=["as good", "a little worse"])
def test_luck_seldom_wins(tried: int, share: float, most: float) -> None:
    """Of sets as good as the defaults the best one nearly always looks better, but wins in less than half of all."""
    random, won = np.random.default_rng(3), 0
    for _ in range(200):
        base = better(0.3, random)
        sets = [np.where(random.random(DISPLAYS) < 0.2, better(share, random), base) for _ in range(tried)]
        trials = [trial(0, base, defaults=True), *(trial(1 + i / 10, gain) for i, gain in enumerate(sets))]
        won += winner(trials, FUTURE) is not None
    assert won / 200 < most


def test_what_is_better_wins() -> None:
    random = np.random.default_rng(4)
    base = better(0.3, random)
    gain = np.where(random.random(DISPLAYS) < 0.2, better(0.6, random), base)
    trials = [trial(0, base, defaults=True), trial(1, base), trial(2, gain), pruned(3)]
    assert winner(trials, FUTURE) == {"x": 2.0}
    assert winner(trials[:2], FUTURE) is None


def test_defaults_that_diverge_lose() -> None:
    random = np.random.default_rng(5)
    base = trial(0, None, defaults=True, value=0.0)
    diverged, learned = trial(1, None, value=0.0), trial(2, better(0.1, random))
    assert winner([base, diverged], FUTURE) is None
    assert winner([base, diverged, learned], FUTURE) == {"x": 2.0}


def pruned(x: float) -> FrozenTrial:
    return create_trial(
        state=TrialState.PRUNED, params={"x": x}, distributions={"x": FloatDistribution(0, 9)}, value=0.99
    )


def test_the_more_are_tried_the_more_is_luck() -> None:
    expected: Sequence[float] = [float(np.random.default_rng(6).normal(size=(4000, n)).max(1).mean()) for n in (3, 30)]
    assert luck(1) == luck(0) == 1
    for n, of_n in zip((3, 30), expected, strict=True):
        assert luck(n) == pytest.approx(max(1, of_n), rel=0.03)
