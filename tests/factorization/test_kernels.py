"""Logits of lr, fm and ffm against plain loops over the formulas, and their gradients against differences."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.factorization.displays import Displays, Inputs, Reader, Side
from pipeline.factorization.tables import TableLearner
from pipeline.models.ffm import FFM
from pipeline.models.ffm import Config as FFMConfig
from pipeline.models.fm import FM
from pipeline.models.fm import Config as FMConfig
from pipeline.models.lr import Config as LRConfig
from pipeline.models.lr import LogisticRegression
from pipeline.schemas.encoded import Encoded
from tests.synthetic import MIXED, alike, mixed, scored, write_encoded

KINDS = ["fm", "ffm", "ffm linear"]
#: Of `ffm linear`: fields of all kinds that it does not pair.
LINEAR = ("page", "topic", "viewed", "rate")
#: What a display's ads share: nothing, some of every kind, all but the ad and a bag.
SHARED = [(), ("page", "age", "entity"), ("page", "age", "entity", "rate")]


@pytest.fixture(scope="module", params=SHARED, ids=["own", "some", "most"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    """The same displays, whose fields are stored by display or by row."""
    fields = [replace(f, per="display" if f.name in request.param else "impression") for f in MIXED]
    displays = alike(mixed(np.random.default_rng(5), 30), SHARED[-1])
    return write_encoded(tmp_path_factory.mktemp("kernels") / "encoded", fields, displays, displays)


def history(world: Encoded, linear: tuple[str, ...] = ()) -> tuple[Displays, Inputs]:
    inputs = Inputs(list(world.fields.values()), linear=linear)
    ((_, displays),) = Reader(world.part("history"), inputs).in_order()
    return displays, inputs


def values_of(side: Side, item: int) -> list[list[tuple[int, float]]]:
    """(id, x) of each field."""
    found = []
    for f in range(side.fields):
        start, stop = side.starts[item * side.fields + f : item * side.fields + f + 2]
        found.append(list(zip(side.ids[start:stop].tolist(), side.values[start:stop].tolist(), strict=True)))
    return found


def naive_logit(kind: str, x: Displays, d: int, row: int, table: NDArray[np.float64], config: Any) -> float:
    """table: (ids, block)."""
    sides = (x.shared, values_of(x.shared, d)), (x.own, values_of(x.own, row))
    fields = [field for side, values in sides for field in values[: side.pairs]]
    count, k = len(fields), config.k
    norm = sum(v * v for field in fields for _, v in field) if config.normalize else 1.0
    pairs, linear = 0.0, 0.0
    for side, values in sides:
        linear += sum(v * table[a, 0] for field in values[side.pairs :] for a, v in field)
    for i, field in enumerate(fields):
        for a, v in field:
            linear += v * (table[a, k] if kind == "fm" else table[a, i * k])
        for j in range(i + 1, count):
            for a, v in field:
                for b, u in fields[j]:
                    one = table[a, :k] if kind == "fm" else table[a, j * k : j * k + k]
                    two = table[b, :k] if kind == "fm" else table[b, i * k : i * k + k]
                    pairs += v * u * float(one @ two)
    return pairs / norm + linear / math.sqrt(norm)


def naive_loss(kind: str, x: Displays, d: int, table: NDArray[np.float64], bias: float, config: Any) -> float:
    rows = range(int(x.offsets[d]), int(x.offsets[d + 1]))
    logits = np.array([bias + naive_logit(kind, x, d, row, table, config) for row in rows])
    clicked = x.clicked[rows.start : rows.stop]
    if config.loss == "listwise":
        return float(np.log(np.exp(logits).sum()) - logits[clicked == 1].sum())
    return float(np.logaddexp(0, np.where(clicked == 1, -logits, logits)).sum())


def learner_of(kind: str, world: Encoded, **values: Any) -> tuple[TableLearner, Displays]:
    """With random numbers everywhere, so that none hides behind its initial value."""
    config = (FMConfig if kind == "fm" else FFMConfig)(k=3, **values)
    displays, inputs = history(world, LINEAR if kind == "ffm linear" else ())
    learner = (FM if kind == "fm" else FFM)(inputs, config, world.part("history"))
    learner.table[:, 0] = np.random.default_rng(0).normal(0, 0.5, learner.table[:, 0].shape)
    learner.bias[0] = 0.3
    return learner, displays


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_logits(world: Encoded, kind: str, normalize: bool) -> None:
    learner, displays = learner_of(kind, world, normalize=normalize)
    table, found, row = learner.table[:, 0].astype(float), scored(learner, displays), 0
    for d in range(len(displays.offsets) - 1):
        for row in range(int(displays.offsets[d]), int(displays.offsets[d + 1])):
            expected = 0.3 + naive_logit(kind, displays, d, row, table, learner.config)
            assert found[row] == pytest.approx(expected, abs=1e-5)
    assert row + 1 == len(found) > 80


@pytest.mark.parametrize("loss", ["listwise", "pointwise"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(world: Encoded, kind: str, normalize: bool, loss: str) -> None:
    """With huge sums of squares, AdaGrad takes plain steps: what it changes is the gradient, against differences."""
    learner, displays = learner_of(kind, world, normalize=normalize, loss=loss, l2=0.0, learning_rate=1e5)
    learner.table[:, 1] = 1e10
    learner.bias[1] = 1e10
    before, bias = learner.table[:, 0].astype(float), float(learner.bias[0])
    chosen = int(np.argmax(np.diff(displays.offsets)))
    assert learner.learn(displays, np.array([chosen])) == pytest.approx(
        naive_loss(kind, displays, chosen, before, bias, learner.config), abs=1e-4
    )
    gradient = before - learner.table[:, 0]

    def loss_at(place: tuple[int, int], change: float) -> float:
        table = before.copy()
        table[place] += change
        return naive_loss(kind, displays, chosen, table, bias, learner.config)

    read = {i for field in values_of(displays.shared, chosen) for i, _ in field}
    for row in range(int(displays.offsets[chosen]), int(displays.offsets[chosen + 1])):
        read |= {i for field in values_of(displays.own, row) for i, _ in field}
    assert set(np.flatnonzero(np.abs(gradient).sum(1))) <= read
    for i in sorted(read)[::3]:
        for c in range(before.shape[1]):
            expected = (loss_at((i, c), 1e-4) - loss_at((i, c), -1e-4)) / 2e-4
            assert gradient[i, c] == pytest.approx(expected, abs=2e-5), (i, c)
    if loss == "pointwise":
        up, down = (naive_loss(kind, displays, chosen, before, bias + e, learner.config) for e in (1e-4, -1e-4))
        assert bias - learner.bias[0] == pytest.approx((up - down) / 2e-4, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_adagrad_and_l2(world: Encoded, kind: str) -> None:
    """One step of an ad's own id: g = gradient + l2 w, G = 1 + g^2, w - eta g / sqrt(G)."""
    rate, l2 = 0.3, 0.01
    plain, displays = learner_of(kind, world, l2=0.0, learning_rate=1e5)
    plain.table[:, 1] = 1e10
    before = plain.table[:, 0].copy()
    single = int(np.flatnonzero(np.diff(displays.offsets) == 2)[0])
    plain.learn(displays, np.array([single]))
    gradient = before - plain.table[:, 0]
    ad = [f.name for f in learner_fields(plain)].index("ad") - len(plain.inputs.shared)
    own = values_of(displays.own, int(displays.offsets[single]))[ad][0][0]
    learner, _ = learner_of(kind, world, l2=l2, learning_rate=rate)
    learner.learn(displays, np.array([single]))
    g = gradient[own] + l2 * before[own]
    np.testing.assert_allclose(learner.table[own, 1], 1 + g * g, rtol=1e-5)
    np.testing.assert_allclose(learner.table[own, 0], before[own] - rate * g / np.sqrt(1 + g * g), atol=1e-5)


def learner_fields(learner: TableLearner) -> list[Any]:
    return [column.field for column in [*learner.inputs.shared, *learner.inputs.own]]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_l2_by_frequency(world: Encoded, power: float) -> None:
    """l2 / n ** power for an id that is read n times in an epoch."""
    learner, displays = learner_of("ffm", world, l2=0.1, l2_frequency=power)
    counts = np.bincount(displays.own.ids, minlength=len(learner.table)).astype(float)
    for d, n in enumerate(np.diff(displays.offsets)):
        for field in values_of(displays.shared, d):
            for i, _ in field:
                counts[i] += n
    expected = 0.1 / np.maximum(counts, 1) ** power if power else np.full(1, 0.1)
    np.testing.assert_allclose(learner.l2, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_each_id_is_drawn_to_0_by_its_own_l2(world: Encoded, kind: str) -> None:
    """With plain steps, an id that a display reads once moves by l2 w more, or by n l2 w if its n ads share it."""
    plain, displays = learner_of(kind, world, l2=0.0, learning_rate=1e5)
    l2 = np.random.default_rng(1).uniform(0.01, 0.2, len(plain.table)).astype(np.float32)
    before, chosen, changes = plain.table[:, 0].copy(), int(np.argmax(np.diff(displays.offsets))), []
    for of_ids in (np.zeros_like(l2), l2):
        learner, _ = learner_of(kind, world, learning_rate=1e5)
        learner.table[:, 1], learner.l2 = 1e10, of_ids
        learner.learn(displays, np.array([chosen]))
        changes.append(before - learner.table[:, 0])
    rows = range(int(displays.offsets[chosen]), int(displays.offsets[chosen + 1]))
    shared = [i for field in values_of(displays.shared, chosen) for i, _ in field]
    own = [i for row in rows for field in values_of(displays.own, row) for i, _ in field]
    once = [i for i in {*shared, *own} if (shared + own).count(i) == 1]
    assert len(once) >= 5
    expected = np.array([(len(rows) if i in shared else 1) * l2[i] * before[i] for i in once])
    unpaired = [i for field in values_of(displays.shared, chosen)[displays.shared.pairs :] for i, _ in field]
    unpaired += [i for row in rows for field in values_of(displays.own, row)[displays.own.pairs :] for i, _ in field]
    expected[np.isin(once, unpaired), 1:] = 0  # of such an id there is the linear weight alone
    np.testing.assert_allclose((changes[1] - changes[0])[once], expected, atol=1e-5)


# --- FTRL-Proximal ------------------------------------------------------------------------------------------------


def naive_weight(z: float, n: float, config: Any, l2: float) -> float:
    if abs(z) <= config.l1:
        return 0.0
    return -(z - math.copysign(config.l1, z)) / ((config.beta + math.sqrt(n)) / config.alpha + l2)


def naive_ftrl(x: Displays, order: list[int], config: Any, l2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Algorithm 1 of McMahan et al. 2013 with gradients of a display's loss; z and n of each id, then of the bias.
    l2: of the same."""
    size = len(l2) - 1
    z, n = np.zeros(size + 1), np.zeros(size + 1)

    def weight(i: int) -> float:
        return naive_weight(z[i], n[i], config, l2[i])

    def step(i: int, g: float) -> None:
        sigma = (math.sqrt(n[i] + g * g) - math.sqrt(n[i])) / config.alpha
        z[i] += g - sigma * weight(i)
        n[i] += g * g

    for d in order:
        rows = range(int(x.offsets[d]), int(x.offsets[d + 1]))
        shared = [(i, v) for field in values_of(x.shared, d) for i, v in field] + [(size, 1.0)]
        own = [[(i, v) for field in values_of(x.own, row) for i, v in field] for row in rows]
        logits = np.array([sum(v * weight(i) for i, v in shared + mine) for mine in own])
        clicked = x.clicked[rows.start : rows.stop]
        p = np.exp(logits) / np.exp(logits).sum() if config.loss == "listwise" else 1 / (1 + np.exp(-logits))
        for mine, residual in zip(own, p - clicked, strict=True):
            for i, v in mine:
                step(i, residual * v)
        for i, v in shared:
            step(i, float((p - clicked).sum()) * v)
    return np.stack([z, n], axis=1)


@pytest.mark.parametrize("loss", ["listwise", "pointwise"])
@pytest.mark.parametrize("l1", [0.0, 0.5])
def test_ftrl(world: Encoded, loss: Any, l1: float) -> None:
    """With an l2 of each field; none draws the bias."""
    displays, inputs = history(world)
    config = LRConfig(alpha=0.3, beta=0.7, l1=l1, l2=0.2, loss=loss)
    learner = LogisticRegression(inputs, config, world.part("history"))
    learner.l2 *= np.arange(1, len(learner.l2) + 1)
    l2 = np.append(np.repeat(learner.l2, np.diff(inputs.regions)), 0)
    order = np.random.default_rng(0).permutation(len(displays.offsets) - 1)
    learner.learn(displays, order)
    expected = naive_ftrl(displays, order.tolist(), config, l2)
    np.testing.assert_allclose(learner.table, expected, rtol=1e-3, atol=1e-5)
    if loss == "pointwise":
        assert learner.table[-1, 1] > 0
    zero = (np.abs(expected[:, 0]) <= l1) & (expected[:, 1] > 1e-12)
    assert zero.any() == (l1 > 0), "l1 gives exact zeros"
    weights = np.array([naive_weight(z, n, config, one) for (z, n), one in zip(learner.table, l2, strict=True)])
    kept = learner.weights()
    np.testing.assert_array_equal(kept["ids"], np.flatnonzero(weights))
    np.testing.assert_allclose(kept["w"], weights[kept["ids"]], rtol=1e-6)
    found = scored(learner, displays)
    for d in range(len(displays.offsets) - 1):
        for row in range(int(displays.offsets[d]), int(displays.offsets[d + 1])):
            fields = values_of(displays.shared, d) + values_of(displays.own, row)
            logit = weights[-1] + sum(x * weights[i] for field in fields for i, x in field)
            assert found[row] == pytest.approx(logit, abs=1e-5)
    assert np.std(found) > 0.01


def test_the_data_tells_each_fields_l2(world: Encoded) -> None:
    """lambda = gamma / sum w^2 with gamma = sum h / (h + lambda) and h = n / t; l2 = t lambda. Until half an epoch is
    learned from nothing is known, and a given l2 stays what it is."""
    displays, inputs = history(world)
    learner, fixed = (LogisticRegression(inputs, LRConfig(l2=l2), world.part("history")) for l2 in (None, 0.2))
    order = np.arange(len(displays.offsets) - 1)
    for epochs in (0.0, 0.25):
        learner.reach(epochs)
        np.testing.assert_allclose(learner.l2, epochs * 10)
        learner.learn(displays, order)
    t, before = 0.25, learner.strengths.copy()
    learner.reach(0.5)
    for region, (first, end) in enumerate(pairwise(inputs.regions)):
        z, n = learner.table[first:end].T
        w = -z / ((1 + np.sqrt(n)) / 0.3 + t * before[region])
        h, lam = n[n > 0] / t, before[region]
        expected = (h / (h + lam)).sum() / max((w * w).sum(), 1e-12)
        assert learner.strengths[region] == pytest.approx(np.clip(expected, 1e-2, 1e4), rel=1e-6)
        assert learner.l2[region] == pytest.approx(0.5 * learner.strengths[region])
    known = learner.strengths.copy()
    assert len(set(known)) > 3
    learner.reach(0.7)
    np.testing.assert_array_equal(learner.strengths, known)
    np.testing.assert_allclose(learner.l2, 0.7 * known)
    fixed.reach(3.0)
    np.testing.assert_array_equal(fixed.l2, 0.2)
