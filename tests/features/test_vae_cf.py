"""Tastes that are drawn to explore; and parameters of the groups that learn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from pipeline.collaborative.attributes import Attributes
from pipeline.collaborative.mult_vae import MultVAE, Tastes
from pipeline.core.errors import ParameterError
from pipeline.features import vae_cf
from pipeline.features.base import load_group
from pipeline.features.displays import Chunk, Columns
from pipeline.features.vae_cf import SHOWN, SUBJECTS, Config

DISPLAYS, DOCUMENTS = 60, 12
RANGES = [range(5), range(5, 9), range(9, 15)]


@pytest.fixture
def chunk() -> Chunk:
    """Displays on all pages in turn, with two ads each, whose users viewed nothing else."""
    offsets = np.arange(0, 2 * DISPLAYS + 1, 2)
    page = np.arange(DISPLAYS) % DOCUMENTS
    return Chunk(
        display_id=np.arange(100, 100 + DISPLAYS),
        page=page,
        day=np.ones(DISPLAYS, np.int64),
        offsets=offsets,
        row=np.arange(2 * DISPLAYS),
        ad_document=np.arange(2 * DISPLAYS) % 7,
        more={},
        texts={},
        beside_offsets=np.zeros(DISPLAYS + 1, np.int64),
        beside={"delay": np.empty(0, np.int64), "document_id": np.empty(0, np.int64)},
    )


def described(chunk: Chunk, monkeypatch: pytest.MonkeyPatch, explore: int | None) -> Columns:
    """The columns of the group, with a network that has learned nothing."""
    weights = np.random.default_rng(1).random((DOCUMENTS, RANGES[-1].stop), np.float32)
    attributes = Attributes(np.arange(DOCUMENTS), sp.csr_matrix(weights), dict(zip(SUBJECTS, RANGES, strict=True)))
    config = Config(dim=5, hidden=6, explore=explore)
    torch.manual_seed(1)
    tastes = Tastes.of(MultVAE(RANGES, config), np.arange(15.0), np.eye(5, dtype=np.float32))
    monkeypatch.setattr(vae_cf, "read_attributes", lambda *given: attributes)
    monkeypatch.setattr(vae_cf, "read_viewed", lambda *given: None)
    monkeypatch.setattr(vae_cf, "fit_tastes", lambda *given: {1: tastes})
    learner: Any = vae_cf.GROUP.learner
    sources: Any = SimpleNamespace(
        tables=None, info=SimpleNamespace(views_until=0), impressions=lambda part: Path(f"{part}.parquet")
    )
    return learner.fit(None, sources, config)("history").compute(chunk)  # type: ignore[no-any-return]


def tastes_of(columns: Columns) -> np.ndarray:
    """(D, SHOWN)"""
    return np.stack([np.asarray(columns[f"vae_cf_user_{k}"])[::2] for k in range(SHOWN)], axis=1)


def test_what_is_unsure_is_explored(chunk: Chunk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed draws each display's taste from its posterior, here nearly N(mu, I), again the same; null takes mu."""
    means, again, drawn, same = (described(chunk, monkeypatch, explore) for explore in (None, None, 1, 1))
    for name in means:
        np.testing.assert_array_equal(again[name], means[name])
        np.testing.assert_array_equal(same[name], drawn[name])
    assert not np.array_equal(drawn["vae_cf_score"], means["vae_cf_score"])
    np.testing.assert_array_equal(drawn["vae_cf_ad_0"], means["vae_cf_ad_0"])
    draws = np.stack([tastes_of(described(chunk, monkeypatch, seed)) for seed in range(150)])
    mu = tastes_of(means)
    assert np.array_equal(mu[0], mu[DOCUMENTS]), "the same page, the same mean"
    assert (draws[:, 0] != draws[:, DOCUMENTS]).all(), "but each display has a draw of its own"
    np.testing.assert_allclose(draws.mean(axis=0), mu, atol=0.5)
    assert 0.5 < draws.std(axis=0).mean() < 2


@pytest.mark.parametrize("name", ["mf", "vae_cf", "dkt"])
@pytest.mark.parametrize("wrong", [{"seed": -1}, {"dim": 0}, {"users": 0}])
def test_parameters_that_make_no_sense(name: str, wrong: dict[str, int]) -> None:
    learner = load_group(name).learner
    assert learner is not None
    with pytest.raises(ParameterError, match=f"{next(iter(wrong))}: must be"):
        learner.config(**wrong)


def test_seeds_that_are_no_seeds() -> None:
    for name in ("vae_cf", "dkt"):
        learner = load_group(name).learner
        assert learner is not None
        learner.config(seed=(1 << 64) - 1)
        with pytest.raises(ParameterError, match="seed: must be from 0 to below 2"):
            learner.config(seed=1 << 64)
    with pytest.raises(ParameterError, match="explore: must be 0 or more, or null, found -1"):
        Config(explore=-1)
