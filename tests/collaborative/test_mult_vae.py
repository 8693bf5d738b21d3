"""Mult-VAE against its equations spelled out, on data of its own kind, and night by night."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from pipeline.collaborative.attributes import Attributes
from pipeline.collaborative.mult_vae import MultVAE, Tastes, VAEConfig, gaussian_kl, log_likelihood
from pipeline.collaborative.nightly_tastes import bags, bags_of, fit_tastes
from pipeline.collaborative.viewed import Viewed

SUBJECTS = [range(4), range(4, 10)]
CONFIG = VAEConfig(dim=3, hidden=8, dropout=0.2, beta=0.2, anneal=50, batch=32, learning_rate=1e-2)


@pytest.fixture
def model() -> MultVAE:
    torch.manual_seed(1)
    return MultVAE(SUBJECTS, CONFIG).eval()


@pytest.fixture(scope="module")
def viewed() -> Viewed:
    """300 users view over four days documents of their own half of the 40 (0..19 or 20..39)."""
    random = np.random.default_rng(1)
    user = np.repeat(np.arange(300), 8)
    document = 20 * (user % 2) + random.integers(0, 19, len(user))  # 19 and 39 are never viewed
    day = np.sort(random.integers(0, 4, (300, 8)), axis=1).ravel()
    return Viewed(user.astype(np.int32), document.astype(np.uint32), day.astype(np.int8))


@pytest.fixture(scope="module")
def attributes() -> Attributes:
    """Topics 0, 1 belong to the first half of the documents, 2, 3 to the second; so do three sources each."""
    document = np.arange(40)
    half = document // 20
    weights = np.zeros((40, 10), np.float32)
    weights[document, 2 * half + document % 2] = 0.7
    weights[document, 4 + 3 * half + document % 3] = 1.0
    return Attributes(document, sp.csr_matrix(weights), {"topic": SUBJECTS[0], "source": SUBJECTS[1]})


def test_the_loss_is_the_multinomial_log_likelihood_and_the_divergence(model: MultVAE) -> None:
    x = torch.rand(5, 10)
    found = model.loss(sp.csr_matrix(x.numpy()), 0.3, torch.Generator().manual_seed(2)).item()
    mu, log_variance = (t.detach().numpy().astype(float) for t in model.encode(sp.csr_matrix(x.numpy())))
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).numpy()
    w, b = model.decoder.weight.detach().numpy(), model.decoder.bias.detach().numpy()
    total = 0.0
    for u in range(5):
        z = [mu[u, k] + noise[u, k] * math.exp(log_variance[u, k] / 2) for k in range(3)]
        logits = [float(w[a] @ z) + float(b[a]) for a in range(10)]
        for subject in SUBJECTS:
            partition = math.log(sum(math.exp(logits[a]) for a in subject))
            total -= sum(float(x[u, a]) * (logits[a] - partition) for a in subject)
        total += 0.3 * sum(
            -0.5 * (1 + log_variance[u, k] - mu[u, k] ** 2 - math.exp(log_variance[u, k])) for k in range(3)
        )
    assert found == pytest.approx(total / 5, rel=1e-5)


def test_the_gradient_of_the_likelihood_is_that_of_differences() -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    at, times = torch.tensor([0, 5, 9, 13, 21, 29]), torch.rand(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: log_likelihood(x, at, times, SUBJECTS), logits)
    x = torch.zeros(30, dtype=torch.float64).index_add(0, at, times).view(3, 10)
    log_pi = torch.cat([logits[:, s.start : s.stop].log_softmax(dim=1) for s in SUBJECTS], dim=1)
    torch.testing.assert_close(log_likelihood(logits, at, times, SUBJECTS), (x * log_pi).sum())


def test_a_subject_of_which_no_document_has_anything_changes_nothing(model: MultVAE) -> None:
    torch.manual_seed(2)
    logits, at, times = torch.randn(3, 10), torch.tensor([0, 5, 9, 13, 21, 29]), torch.rand(6)
    subjects = [range(4), range(4, 4), range(4, 10)]
    found = log_likelihood(logits, at, times, subjects)
    torch.testing.assert_close(found, log_likelihood(logits, at, times, SUBJECTS))
    tastes, z = tastes_of(model), np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    partition = replace(tastes, subjects=subjects).log_partition(z)
    np.testing.assert_array_equal(partition[:, [0, 2]], tastes.log_partition(z))


def test_the_divergence_against_draws() -> None:
    mu, log_variance = torch.tensor([[0.5, -1.0]]), torch.tensor([[-0.4, 0.3]])
    q = torch.distributions.Normal(mu, (log_variance / 2).exp())
    p = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(q, p).sum(dim=1)
    torch.testing.assert_close(gaussian_kl(mu, log_variance), expected)


def test_a_single_user_on_the_first_night(viewed: Viewed, attributes: Attributes) -> None:
    alone = Viewed(viewed.user[:8], viewed.document[:8], viewed.day[:8])
    mornings = fit_tastes(alone, attributes, CONFIG)
    assert len(mornings) == len(set(alone.day.tolist()))
    for tastes in mornings.values():
        assert np.isfinite(tastes.axes).all()


def tastes_of(model: MultVAE) -> Tastes:
    return Tastes.of(model, np.arange(1.0, 11.0), np.eye(3, dtype=np.float32))


def test_arrays_compute_what_the_network_does(model: MultVAE, attributes: Attributes) -> None:
    """Documents' vectors and the partition give back the log of pi, less the log popularity."""
    x = torch.rand(7, 10)
    x[3] = 0
    tastes = tastes_of(model)
    z = tastes.taste(sp.csr_matrix(x.numpy()))
    with torch.no_grad():
        mu, _ = model.encode(sp.csr_matrix(x.numpy()))
        logits = model.decoder(mu)
        log_pi = torch.cat([logits[:, s.start : s.stop].log_softmax(dim=1) for s in SUBJECTS], dim=1).numpy()
    np.testing.assert_allclose(z, mu.numpy(), atol=1e-5)
    for s, subject in enumerate(SUBJECTS):
        vectors, constant = tastes.documents(attributes.rows(np.arange(40)), subject)
        found = z @ vectors.T + constant - tastes.log_partition(z)[:, [s]]
        v = attributes.weights[:, subject.start : subject.stop].toarray()
        v /= v.sum(axis=1, keepdims=True)
        share = np.arange(2.0, 12.0)[subject.start : subject.stop]
        expected = (log_pi[:, subject.start : subject.stop] - np.log(share / share.sum())) @ v.T
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert np.isnan(tastes.documents(attributes.rows(np.array([99])), subject)[1]).all()


def test_the_mean_is_always_the_same_and_a_draw_goes_by_its_seed(model: MultVAE) -> None:
    x, tastes = sp.csr_matrix(np.random.default_rng(3).random((50, 10), np.float32)), tastes_of(model)
    np.testing.assert_array_equal(tastes.taste(x), tastes.taste(x))
    np.testing.assert_array_equal(tastes.taste(x[10:20]), tastes.taste(x)[10:20])
    draws = [tastes.taste(x, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    many = np.mean([tastes.taste(x, np.random.default_rng(seed)) for seed in range(400)], axis=0)
    np.testing.assert_allclose(many, tastes.taste(x), atol=0.3)


def test_tastes_are_learned(viewed: Viewed, attributes: Attributes) -> None:
    """Every user finds the documents of its half likelier, those that nobody has viewed among them."""
    tastes = fit_tastes(viewed, attributes, CONFIG)[4]
    z = tastes.taste(bags(viewed, attributes, np.arange(0, 2400, 8), np.arange(8, 2401, 8)))
    for s, subject in enumerate(SUBJECTS):
        vectors, constant = tastes.documents(attributes.rows(np.array([19, 39])), subject)
        lift = z @ vectors.T + constant - tastes.log_partition(z)[:, [s]]
        own = np.arange(300) % 2
        assert (lift[np.arange(300), own] > 0.2).mean() > 0.95
        assert (lift[np.arange(300), 1 - own] < -0.2).mean() > 0.95


def test_the_divergence_counts_more_from_batch_to_batch(
    viewed: Viewed, attributes: Attributes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """beta rises from 0, evenly, over `anneal` batches, of all nights together, and then stays."""
    found, loss = [], MultVAE.loss
    monkeypatch.setattr(
        MultVAE, "loss", lambda model, x, beta, random: (found.append(beta), loss(model, x, beta, random))[1]
    )
    fit_tastes(viewed, attributes, replace(CONFIG, beta=0.4, anneal=10))
    assert len(found) > 20
    np.testing.assert_allclose(found, 0.4 * np.minimum(np.arange(len(found)) / 10, 1))


def test_a_morning_does_not_know_the_days_after_it(viewed: Viewed, attributes: Attributes) -> None:
    early = viewed.day < 2
    cut = Viewed(viewed.user[early], viewed.document[early], viewed.day[early])
    found, whole = (fit_tastes(v, attributes, CONFIG) for v in (cut, viewed))
    assert sorted(found) == [1, 2]
    assert sorted(whole) == [1, 2, 3, 4]
    for day in (1, 2):
        np.testing.assert_array_equal(found[day].decoder[0], whole[day].decoder[0])
        np.testing.assert_array_equal(found[day].log_popularity, whole[day].log_popularity)
        np.testing.assert_array_equal(found[day].axes, whole[day].axes)


def test_bags_hold_what_was_viewed_so_far_by_those_of_the_day(viewed: Viewed, attributes: Attributes) -> None:
    starts, ends = bags_of(viewed, 2)
    found = bags(viewed, attributes, starts, ends).toarray()
    expected = []
    for user in range(300):
        own = viewed.user == user
        if (viewed.day[own] == 2).any():
            expected.append(attributes.weights.toarray()[viewed.document[own & (viewed.day <= 2)]].sum(axis=0))
    assert 100 < len(expected) < 300
    np.testing.assert_allclose(found, expected, rtol=1e-6)
