"""Blending: weights of greatest likelihood, honest out-of-fold scores, and the choice between ways to combine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import check_grad, minimize

from pipeline import blend as blend_module
from pipeline.blend import (
    BlendConfig,
    Weights,
    _best,
    _scaled,
    _standard_error,
    blend,
    correlations,
    likelihood_weights,
    smooth_weights,
)
from pipeline.core.errors import ParameterError
from pipeline.metrics import Labelled, map12, reciprocal_rank, tie_hash
from tests.synthetic import draw_clicks

Floats = NDArray[np.floating[Any]]


def labelled(random: np.random.Generator, logits: Floats, lengths: NDArray[np.int64], future: float = 0.5) -> Labelled:
    """Clicks drawn from the softmax of the true logits."""
    displays = len(lengths)
    return Labelled(
        clicked=draw_clicks(random, logits, lengths),
        offsets=np.cumsum([0, *lengths]),
        display_id=np.arange(100, 100 + displays, dtype=np.uint32),
        ad_id=np.arange(len(logits), dtype=np.uint32),
        slices={"future": random.random(displays) < future},
    )


def members_of(displays: int, seed: int = 0, **options: Any) -> tuple[NDArray[np.float32], Labelled]:
    """The truth is the sum of two signals; one member sees one, one the other, the third only noise."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 8, displays)
    rows = int(lengths.sum())
    signals = random.normal(0, 1, (rows, 3))
    labels = labelled(random, signals[:, 0] + 0.7 * signals[:, 1], lengths, **options)
    return signals.astype(np.float32), labels


def naive_loss(weights: Weights, logits: Floats, labels: Labelled) -> float:
    """Mean over displays of -log softmax of the click."""
    total = 0.0
    for start, end in zip(labels.offsets[:-1], labels.offsets[1:], strict=True):
        z = logits[start:end].astype(float) @ weights
        total += np.log(np.exp(z).sum()) - z[np.argmax(labels.clicked[start:end])]
    return total / (len(labels.offsets) - 1)


# --- weights ------------------------------------------------------------------------------------------------------


def test_likelihood_weights_are_the_best() -> None:
    """Against a search that knows no gradient, and near the weights that the clicks were drawn with."""
    logits, labels = members_of(400)
    found = likelihood_weights(logits, labels)
    searched = minimize(
        lambda w: naive_loss(w, logits, labels) if (w >= 0).all() else 1e9,
        np.full(3, 0.3),
        method="Nelder-Mead",
        options={"xatol": 1e-4, "fatol": 1e-8},
    )
    np.testing.assert_allclose(found, searched.x, atol=5e-3)
    many, answers = members_of(20_000)
    np.testing.assert_allclose(likelihood_weights(many, answers), [1, 0.7, 0], atol=0.05)


def test_weights_are_not_negative() -> None:
    """Not even of a member that ranks the wrong way round."""
    logits, labels = members_of(2000)
    logits[:, 1] *= -1
    for found in (likelihood_weights(logits, labels), smooth_weights(logits, labels)):
        assert found[1] == 0
        assert found[0] > 0


@pytest.mark.parametrize("scale", [0.05, 3.0, 20.0])
def test_scaling_makes_chances_right(scale: float) -> None:
    """The likelihood as a function of the factor has its greatest value there; the ratio of weights stays."""
    logits, labels = members_of(3000)
    weights = scale * np.array([1.0, 0.7, 0.0])
    found = _scaled(weights, logits, labels)
    np.testing.assert_allclose(found / found[0], weights / weights[0], rtol=1e-6)
    best = naive_loss(found, logits, labels)
    assert best < naive_loss(0.97 * found, logits, labels)
    assert best < naive_loss(1.03 * found, logits, labels)


def test_scaling_of_a_member_without_a_signal() -> None:
    logits, labels = members_of(500)
    worse = -logits[:, :1]
    np.testing.assert_array_equal(_scaled(np.ones(1), worse, labels), [1])


def naive_smooth_gain(weights: Weights, length: float, logits: Floats, labels: Labelled) -> float:
    """Mean of 1 / (1 + sum of sigmoids of how far the others are ahead of the click), whose spread is `length`."""
    ahead = []
    for start, end in zip(labels.offsets[:-1], labels.offsets[1:], strict=True):
        z = logits[start:end].astype(float) @ weights
        ahead.append(z - z[np.argmax(labels.clicked[start:end])])
    scale = length / np.sqrt(np.mean(np.concatenate(ahead) ** 2))
    gains = [1 / (0.5 + (1 / (1 + np.exp(-scale * z))).sum()) for z in ahead]  # the click's own sigmoid is a half
    return float(np.mean(gains))


def test_smoothed_map12(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is maximised against a loop, and its gradient against differences."""
    logits, labels = members_of(60)
    asked: list[Any] = []

    def spy(loss: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(loss)
        return minimize(loss, *arguments, **options)

    monkeypatch.setattr(blend_module, "minimize", spy)
    smooth_weights(logits, labels)
    loss = asked[-1]
    weights = likelihood_weights(logits, labels)
    clicks = np.repeat(logits[labels.clicked == 1], np.diff(labels.offsets), axis=0)
    length = float(np.sqrt(np.mean(((logits - clicks).astype(float) @ weights) ** 2)))
    for direction in (np.array([1.0, 0.7, 0.1]), np.array([3.0, 0.0, 1.0]), np.array([0.01, 0.02, 0.03])):
        assert -loss(direction)[0] == pytest.approx(naive_smooth_gain(direction, length, logits, labels), rel=1e-6)
        assert check_grad(lambda w: loss(w)[0], lambda w: loss(w)[1], direction) < 1e-5
        assert loss(direction)[0] == pytest.approx(loss(9 * direction)[0])


def test_smooth_weights_rank_at_their_best() -> None:
    """No other direction ranks clearly better, and the direction is the one that clicks were drawn with."""
    logits, labels = members_of(6000, seed=3)
    found = smooth_weights(logits, labels)
    assert (found >= 0).all()
    np.testing.assert_allclose(found / found[0], [1, 0.7, 0], atol=0.1)
    score = map12(logits @ found.astype(np.float32), labels)
    for other in ([1, 1, 1], [1, 0, 0], [0, 1, 0], [1, 0.3, 0], [1, 1.5, 0], [1, 0.7, 0.5]):
        assert score > map12(logits @ np.array(other, dtype=np.float32), labels)


# --- the blend ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> tuple[NDArray[np.float32], Labelled]:
    return members_of(1500, seed=1)


CONFIG = BlendConfig(members=("first", "second", "noise"), folds=3)


def test_a_blend_beats_its_members(world: tuple[NDArray[np.float32], Labelled]) -> None:
    """On displays that it has not seen; what tells nothing weighs next to nothing."""
    result = blend(*world, CONFIG)
    held_out, answers = members_of(5000, seed=2)
    alone = [map12(held_out[:, i], answers) for i in range(3)]
    assert map12(held_out @ result.weights.astype(np.float32), answers) > max(alone) + 0.02
    assert result.way in ("smooth", "likelihood", "equal", "mean")
    assert result.weights[2] < 0.06 * result.weights[0]
    assert result.weights[1] / result.weights[0] == pytest.approx(0.7, abs=0.2)
    assert set(result.validated) == {
        "first alone",
        "second alone",
        "noise alone",
        "equal",
        "likelihood",
        "smooth",
        "mean",
    }
    assert result.validated["smooth"] > max(result.validated[f"{name} alone"] for name in CONFIG.members) + 0.02
    assert result.out_of_fold.shape == (len(world[0]),)


def test_validation_is_that_of_the_out_of_fold_scores(world: tuple[NDArray[np.float32], Labelled]) -> None:
    logits, labels = world
    result = blend(logits, labels, CONFIG)
    assert map12(result.out_of_fold, labels) == pytest.approx(result.validated[result.way])
    for i, name in enumerate(CONFIG.members):
        assert result.validated[f"{name} alone"] == pytest.approx(map12(logits[:, i], labels))


def folds_of(labels: Labelled, folds: int) -> NDArray[np.int64]:
    hashed = tie_hash(labels.display_id, np.zeros_like(labels.display_id)) % np.uint64(folds)
    return np.repeat(hashed.astype(np.int64), np.diff(labels.offsets))


@pytest.mark.parametrize("way", ["equal", "smooth"])
def test_no_display_is_scored_by_its_own_label(
    world: tuple[NDArray[np.float32], Labelled], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """With the clicks of one fold moved elsewhere, its scores stay as they were, and all others change."""
    monkeypatch.setattr(blend_module, "_best", lambda *_: way)
    logits, labels = world
    fold = folds_of(labels, CONFIG.folds)
    assert np.bincount(fold).min() > 1000
    before = blend(logits, labels, CONFIG).out_of_fold
    for held_out in range(CONFIG.folds):
        clicked = labels.clicked.copy()
        worst = np.zeros_like(clicked)
        for start, end in zip(labels.offsets[:-1], labels.offsets[1:], strict=True):
            worst[start + np.argmin(logits[start:end, 0])] = 1
        clicked[fold == held_out] = worst[fold == held_out]
        after = blend(logits, replace(labels, clicked=clicked), CONFIG).out_of_fold
        np.testing.assert_array_equal(after[fold == held_out], before[fold == held_out])
        assert (after[fold != held_out] != before[fold != held_out]).mean() > 0.99


def test_a_single_member(world: tuple[NDArray[np.float32], Labelled]) -> None:
    logits, labels = world
    result = blend(logits[:, :1], labels, replace(CONFIG, members=("only",)))
    assert result.way == "only alone"
    assert result.weights.shape == (1,)
    assert result.weights[0] == pytest.approx(1, abs=0.2)  # more than 0.7 of it is noise to this member
    np.testing.assert_allclose(result.validated["only alone"], map12(logits[:, 0], labels))


@pytest.mark.parametrize("future", [0.0, 1.0])
def test_only_present_or_only_future(future: float) -> None:
    logits, labels = members_of(1500, future=future)
    result = blend(logits, labels, CONFIG)
    assert labels.slices["future"].all() == bool(future)
    for value in result.validated.values():
        assert 0 < value < 1
    gain = reciprocal_rank(result.out_of_fold, labels.clicked, labels.offsets, labels.display_id, labels.ad_id)
    assert result.validated[result.way] == pytest.approx(gain.mean())


def test_it_can_search_on_fewer_displays(world: tuple[NDArray[np.float32], Labelled]) -> None:
    logits, labels = world
    result = blend(logits, labels, replace(CONFIG, search_displays=500))
    assert result.out_of_fold.shape == (len(logits),)
    assert (result.out_of_fold != 0).all()
    assert result.weights[1] / result.weights[0] == pytest.approx(0.7, abs=0.4)
    assert not np.array_equal(result.weights, blend(logits, labels, CONFIG).weights)


@pytest.mark.parametrize("most", [1, 7, 50, 1000])
def test_a_subset_has_whole_displays(most: int) -> None:
    logits, labels = members_of(60)
    chosen = np.arange(60) % 3 != 0
    found, subset = blend_module._subset(logits, labels, chosen, most)
    ids = subset.display_id.tolist()
    assert len(ids) == min(most, 40)
    assert set(ids) <= set(labels.display_id[chosen].tolist())
    for d, display in enumerate(ids):
        at = display - 100
        original = slice(labels.offsets[at], labels.offsets[at + 1])
        copy = slice(subset.offsets[d], subset.offsets[d + 1])
        np.testing.assert_array_equal(found[copy], logits[original])
        np.testing.assert_array_equal(subset.clicked[copy], labels.clicked[original])
        np.testing.assert_array_equal(subset.ad_id[copy], labels.ad_id[original])
        assert subset.slices["future"][d] == labels.slices["future"][at]


# --- the choice ---------------------------------------------------------------------------------------------------


def gains_of(**means: float) -> dict[str, NDArray[np.float64]]:
    """Gains by display around these means; those of other ways differ from `smooth` by a standard error of 0.01."""
    noise = np.random.default_rng(0).normal(0, 1, 400)
    noise = (noise - noise.mean()) / noise.std()
    return {name.replace("_", " "): mean + 0.2 * noise * (name != "mean") for name, mean in means.items()}


@pytest.mark.parametrize(
    ("means", "best"),
    [
        ({"a_alone": 0.60, "b_alone": 0.50, "equal": 0.62, "mean": 0.64}, "mean"),
        ({"a_alone": 0.619, "b_alone": 0.50, "equal": 0.55, "mean": 0.60}, "mean"),  # within the error
        ({"a_alone": 0.621, "b_alone": 0.50, "equal": 0.55, "mean": 0.60}, "a alone"),
        ({"a_alone": 0.50, "b_alone": 0.70, "equal": 0.60, "mean": 0.61}, "b alone"),
        ({"a_alone": 0.50, "b_alone": 0.62, "equal": 0.65, "mean": 0.61}, "equal"),
        ({"a_alone": 0.5}, "a alone"),
    ],
)
def test_another_way_must_be_clearly_better(means: dict[str, float], best: str) -> None:
    gains = gains_of(**means)
    validated = {name: float(gain.mean()) for name, gain in gains.items()}
    assert _best(validated, gains, np.zeros(400, dtype=bool)) == best


def test_standard_error_of_the_weighted_mean() -> None:
    """Against the spread of the weighted mean in repeated draws; few future displays count for half of it."""
    random, future = np.random.default_rng(0), np.arange(500) >= 460
    labels = replace(members_of(2)[1], slices={"future": future})
    draws, errors = [], []
    for _ in range(2000):
        value = np.where(future, random.normal(0, 2, 500), random.normal(0, 1, 500))
        draws.append(0.4767 * value[~future].mean() + 0.5233 * value[future].mean())
        errors.append(_standard_error(value, labels.slices["future"]))
    assert np.mean(errors) == pytest.approx(np.std(draws), rel=0.05)
    value = random.normal(0, 1, 500)
    for alone in (np.zeros(500, dtype=bool), np.ones(500, dtype=bool)):
        assert _standard_error(value, alone) == pytest.approx(value.std() / np.sqrt(500))


def test_correlations() -> None:
    """Against numpy, each display's mean taken out in a loop; a shift by display changes nothing."""
    logits, labels = members_of(50)
    logits[:, 2] += logits[:, 0]
    centred = logits.astype(float)
    for start, end in zip(labels.offsets[:-1], labels.offsets[1:], strict=True):
        centred[start:end] -= centred[start:end].mean(0)
    np.testing.assert_allclose(correlations(logits, labels), np.corrcoef(centred.T), atol=1e-6)
    shift = np.repeat(np.random.default_rng(1).normal(0, 5, 50), np.diff(labels.offsets))[:, None]
    np.testing.assert_allclose(
        correlations((logits + shift).astype(np.float32), labels), correlations(logits, labels), atol=1e-4
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"members": ()}, "members: expected at least one model"),
        ({"members": ("lr", "lr")}, "members: one stands twice"),
        ({"members": ("lr",), "folds": 1}, "folds: must be 2 or more, found 1"),
    ],
)
def test_mistakes_in_parameters(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        BlendConfig(**values)
