"""Conditional logit: weights are found again, the gradient vanishes there, and no row knows its own click."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp

from pipeline.choice import ChoiceConfig, ChoiceModel
from pipeline.core.runtime import RuntimeConfig
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from tests.synthetic import Displays, draw_clicks, numeric, write_encoded

TRUE = np.array([0.8, -0.5])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    """6,000 displays whose clicks depend on two scores, every tenth of which is unknown, and on nothing else."""
    random = np.random.default_rng(1)
    lengths = random.integers(2, 7, 6000)
    rows = int(lengths.sum())
    scores = random.normal(size=(rows, 2)).astype(np.float32)
    clicked = draw_clicks(random, scores @ TRUE, lengths)
    scores[random.random(scores.shape) < 0.1] = np.nan
    ads = random.integers(0, rows, rows).astype(np.uint32)
    history = Displays(lengths, {"a": 10 * scores[:, 0] + 3, "b": scores[:, 1]}, clicked, ads)
    folder = tmp_path_factory.mktemp("choice") / "encoded"
    return write_encoded(folder, [numeric("a"), numeric("b")], history, history.take(range(100)))


@pytest.fixture
def model(world: Encoded, runtime: RuntimeConfig) -> ChoiceModel:
    model = ChoiceModel("mf", ChoiceConfig(scores=("a", "b"), ridge=1e-3))
    model.fit(world, FitOptions(runtime=runtime))
    return model


def test_the_weights_are_found_again(model: ChoiceModel) -> None:
    np.testing.assert_allclose(model.weights[1:], TRUE, atol=0.08)
    assert abs(model.weights[0]) < 1, "ads do not differ, and an ad's rate must not hold the row's own click"


def test_no_other_weights_are_likelier(model: ChoiceModel, world: Encoded) -> None:
    """The log-likelihood by a plain loop."""
    history = world.part("history")
    inputs = model._inputs(history, np.arange(history.displays), fold=True)
    clicked = np.asarray(history.array("clicked")) == 1

    def likelihood(weights: np.ndarray) -> float:
        x = inputs @ weights
        return sum(
            x[first:last][clicked[first:last]][0] - logsumexp(x[first:last])
            for first, last in zip(history.offsets[:-1], history.offsets[1:], strict=True)
        )

    best = likelihood(model.weights)
    for k in range(3):
        for step in (-0.02, 0.02):
            assert likelihood(model.weights + step * np.eye(3)[k]) < best


def test_a_sample_of_displays_gives_nearly_the_same(world: Encoded, model: ChoiceModel, runtime: RuntimeConfig) -> None:
    sampled = ChoiceModel("mf", ChoiceConfig(scores=("a", "b"), displays=2000))
    sampled.fit(world, FitOptions(runtime=runtime))
    np.testing.assert_allclose(sampled.weights[1:], model.weights[1:], atol=0.12)
    assert not np.array_equal(sampled.weights, model.weights)


def test_without_scores_the_click_rates_are_left(
    world: Encoded, runtime: RuntimeConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    alone = ChoiceModel("mf", ChoiceConfig())
    alone.fit(world, FitOptions(runtime=runtime))
    assert len(alone.weights) == 1
    assert "mf: the group has no numbers that are encoded" in caplog.text
