"""Logits against naive loops over the formula, gradients, and data drawn from a model that is learned back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.core.runtime import RuntimeConfig
from pipeline.factorization import displays as factorization
from pipeline.models.base import load_kind
from pipeline.models.deepfm import Config as DeepFMConfig
from pipeline.models.deepfm import DeepFM
from pipeline.models.fm import FM
from pipeline.models.fm import Config as FMConfig
from pipeline.nn.batches import Inputs
from pipeline.nn.layers import Shared
from pipeline.nn.network import Network
from pipeline.nn.reading import Reader
from pipeline.nn.rows import Gradient, add_up
from pipeline.schemas.encoded import Encoded, EncodedPart
from pipeline.schemas.fitting import FitOptions
from tests.synthetic import (
    MIXED,
    Bag,
    Displays,
    categorical,
    draw_clicks,
    mixed,
    multi,
    scored,
    write_encoded,
    write_mixed,
)

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return write_mixed(tmp_path_factory.mktemp("equations") / "encoded", displays=40, seed=5)


def randomised(network: Network) -> Network:
    """Every parameter is drawn, so that none hides behind its initial 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def logits_of(network: Network, part: EncodedPart, inputs: Inputs) -> Floats:
    with torch.no_grad():
        return np.concatenate([network(read()).numpy() for _, read in Reader(part, inputs, 7).in_order()]).astype(float)


@dataclass(frozen=True)
class Terms:
    """What a row is to a network, from the files: w_i and e_i of each field, and the scaled numbers.

    Fields and numbers of displays come first; inputs: embeddings and numbers of the display, then of the impression.
    """

    weights: list[float]
    embeddings: list[Floats]
    numbers: Floats
    inputs: Floats


def naive_terms(network: Network, encoded: Encoded, part: EncodedPart, row: int) -> Terms:
    table = network.embed.weight.detach().numpy().astype(float)
    display = int(np.searchsorted(part.offsets, row, side="right")) - 1
    first, rows, numbers, inputs = 0, [], [], []
    for per, at in (("display", display), ("impression", row)):
        own = [f for f in encoded.fields.values() if f.per == per]
        before = len(rows)
        for f in (f for f in own if f.kind == "categorical"):
            rows.append(table[first + part.field(f.name)[at]])
            first += f.size
        for f in (f for f in own if f.kind == "multi"):
            start, end = part.field(f.name, "offsets")[at : at + 2]
            total = np.zeros(table.shape[1])
            for k in range(start, end):
                total = total + part.field(f.name, "weights")[k] * table[first + part.field(f.name, "ids")[k]]
            rows.append(total)
            first += f.size
        scaled = [(float(part.field(f.name)[at]) - f.mean) / f.scale for f in own if f.kind == "numeric"]
        numbers.append(np.array([0 if math.isnan(x) else x for x in scaled]))
        inputs += [*(r[1:] for r in rows[before:]), numbers[-1]]
    assert first == len(table)
    return Terms([r[0] for r in rows], [r[1:] for r in rows], np.concatenate(numbers), np.concatenate(inputs))


def naive_linear(network: Network, terms: Terms) -> float:
    logit = network.linear.bias.item()
    for w in terms.weights:
        logit += w
    for v, x in zip(
        [*network.linear.display.tolist(), *network.linear.impression.tolist()], terms.numbers, strict=True
    ):
        logit += v * x
    return logit


def naive_fm(embeddings: list[Floats]) -> float:
    total = 0.0
    for i in range(len(embeddings)):
        for j in range(i + 1, len(embeddings)):
            total += sum(a * b for a, b in zip(embeddings[i], embeddings[j], strict=True))
    return total


def naive_mlp(network: DeepFM, x: Floats) -> float:
    linears = [m for m in network.mlp.layers if isinstance(m, (torch.nn.Linear, Shared))]
    for layer in linears[:-1]:
        w, b = layer.weight.detach().numpy().astype(float), layer.bias.detach().numpy().astype(float)
        x = np.array([max(0.0, b[o] + sum(w[o, i] * x[i] for i in range(len(x)))) for o in range(len(b))])
    return float(linears[-1].weight.detach().numpy().astype(float)[0] @ x)


@pytest.mark.parametrize("hidden", [(), (6,), (5, 4)])
def test_deepfm(world: Encoded, hidden: tuple[int, ...]) -> None:
    """Without a hidden layer it is a factorization machine: the linear part and all pairs."""
    inputs, part = Inputs(list(world.fields.values())), world.part("history")
    config = DeepFMConfig(embedding_dim=3, hidden=hidden, dropout=0.5)
    network = randomised(DeepFM(inputs, config))
    found, deep = logits_of(network, part, inputs), 0.0
    for row in range(part.rows):
        terms = naive_terms(network, world, part, row)
        expected = naive_linear(network, terms) + naive_fm(terms.embeddings)
        if hidden:
            deep = naive_mlp(network, terms.inputs)
        assert found[row] == pytest.approx(expected + deep, abs=1e-5)


def test_deepfm_without_a_hidden_layer_is_fm(tmp_path: Path) -> None:
    """The kind fm with the same weights gives the same logits, where there are no numbers (deepfm's have no pairs)."""
    fields = [f for f in MIXED if f.kind != "numeric"]
    displays = mixed(np.random.default_rng(2), 30)
    encoded = write_encoded(tmp_path / "encoded", fields, displays, displays)
    inputs, part = Inputs(fields), encoded.part("history")
    network = randomised(DeepFM(inputs, DeepFMConfig(embedding_dim=3, hidden=())))
    own = factorization.Inputs(fields)
    learner = FM(own, FMConfig(k=3, normalize=False), part)
    rows = network.embed.weight.numpy()
    for side in (inputs.display, inputs.impression):
        for field, first in zip(side.embedded, side.first_ids, strict=True):
            (column,) = (c for c in (*own.shared, *own.own) if c.field == field)
            learner.table[column.ids(), 0] = np.roll(rows[first : first + field.size], -1, axis=1)  # weights last
    learner.bias[0] = network.linear.bias.item()
    ((_, read),) = factorization.Reader(part, own).in_order()
    np.testing.assert_allclose(scored(learner, read), logits_of(network, part, inputs), rtol=1e-4, atol=1e-5)


def test_gradient_of_the_table(world: Encoded) -> None:
    """Of rows that codes and weighted bags share, and of displays that several rows share, against differences."""
    inputs = Inputs(list(world.fields.values()))
    network = randomised(DeepFM(inputs, DeepFMConfig(embedding_dim=2, hidden=(3,)))).double()
    _, read = next(Reader(world.part("history"), inputs, 6).in_order())
    batch = read()
    for values in (batch.display, batch.impression):
        values.numbers, values.bag_weights = values.numbers.double(), values.bag_weights.double()
    loss = network(batch).square().sum()
    leaves = [leaf for read in batch.reads for leaf in (read.weights, read.embeddings)]
    found = torch.autograd.grad(loss, leaves)
    ids, rows = add_up([Gradient(read, *found[2 * i : 2 * i + 2]) for i, read in enumerate(batch.reads)], decay=0.0)
    read = [t for values in (batch.display, batch.impression) for t in (values.codes.flatten(), values.bag_ids)]
    assert ids.tolist() == torch.cat(read).unique().tolist()
    table, step = network.embed.weight, 1e-6
    with torch.no_grad():
        for index, row in list(zip(ids.tolist(), rows, strict=True))[::3]:
            for column in range(3):
                ends = []
                for sign in (1, -2):
                    table[index, column] += sign * step
                    ends.append(float(network(batch).square().sum()))
                table[index, column] += step
                difference = (ends[0] - ends[1]) / (2 * step)
                assert float(row[column]) == pytest.approx(difference, abs=1e-4, rel=1e-5)


def test_ad_ctr(tmp_path: Path, runtime: RuntimeConfig) -> None:
    """Against a count of each ad; an ad that history never showed has the mean click rate."""
    random = np.random.default_rng(0)
    history, target = mixed(random, 40), mixed(random, 20)
    highest = int(history.ad_id.max())
    shifted = np.where(target.ad_id % 5 == 0, highest + target.ad_id, target.ad_id)
    target = replace(target, ad_id=shifted.astype(np.uint32))
    encoded = write_encoded(tmp_path / "encoded", MIXED, history, target)
    kind = load_kind("ad_ctr")
    model = kind.build(kind.config(strength=3.0))
    model.fit(encoded, FitOptions(runtime=runtime))
    mean = history.clicked.sum() / history.rows
    for ad, found in zip(target.ad_id, model.predict(encoded.part("target")), strict=True):
        own = history.clicked[history.ad_id == ad]
        rate = (own.sum() + 3.0 * mean) / (len(own) + 3.0)
        assert found == pytest.approx(math.log(rate / (1 - rate)), abs=1e-5)
    assert (target.ad_id > highest).any()


# --- recovery -----------------------------------------------------------------------------------------------------


#: Fields of the recovery tests: pages and users are the same for all ads of a display.
SIZES = {"ad": 20, "page": 10, "user": 12, "topic": 8}
FIELDS = [
    categorical("ad", 20),
    categorical("page", 10, "display"),
    categorical("user", 12, "display"),
    multi("topic", 8),
]


def drawn(random: np.random.Generator, displays: int, kind: str, truth: dict[str, Floats]) -> tuple[Displays, Floats]:
    """Displays of 5 ads, clicked by the true logits of a kind. truth: (ids, 1 + 3 * 4) w, and a vector a field."""
    lengths = np.full(displays, 5)
    columns = {
        "ad": np.concatenate([random.choice(20, 5, replace=False) for _ in range(displays)]),
        "page": np.repeat(random.integers(0, 10, displays), 5),
        "user": np.repeat(random.integers(0, 12, displays), 5),
        "topic": Bag.of([[(int(random.integers(8)), 1.0)] for _ in range(5 * displays)]),
    }
    names = list(SIZES)
    e = {n: truth[n][columns[n].ids if n == "topic" else columns[n]] for n in names}  # (N, 1 + 16)
    logit = sum((e[n][:, 0] for n in names), np.zeros(5 * displays))
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            one, two = (j, i) if kind == "ffm" else (0, 0)  # an ffm has another vector for each field that it meets
            if kind != "lr":
                logit = logit + (e[a][:, 1 + 4 * one : 5 + 4 * one] * e[b][:, 1 + 4 * two : 5 + 4 * two]).sum(1)
    return Displays(lengths, columns, draw_clicks(random, logit, lengths)), logit


def listwise_loss(score: Floats, displays: Displays) -> float:
    """In nats a display; every display has 5 ads."""
    by_display = score.reshape(-1, 5).astype(float)
    top = by_display.max(1)
    partition = top + np.log(np.exp(by_display - top[:, None]).sum(1))
    return float((partition - score[displays.clicked == 1]).mean())


@pytest.fixture(scope="module", params=["lr", "fm", "ffm"])
def recovery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Encoded, Any]:
    """Data drawn from a kind of model; gives the kind, and how far a fitted model's loss on new data is from the truth.

    0: no farther than the true scores; 1: as far as chance.
    """
    random = np.random.default_rng(1)
    truth = {name: random.normal(0, 0.9, (size, 17)) for name, size in SIZES.items()}
    history, _ = drawn(random, 8000, request.param, truth)
    target, logit = drawn(random, 2000, request.param, truth)
    encoded = write_encoded(tmp_path_factory.mktemp(request.param) / "encoded", FIELDS, history, target)

    def distance(score: NDArray[np.float32]) -> float:
        # a listwise model predicts the logit of p, the softmax; log p gives the same softmax
        true = listwise_loss(logit, target)
        return (listwise_loss(-np.logaddexp(0, -score.astype(float)), target) - true) / (math.log(5) - true)

    return request.param, encoded, distance


MODELS: dict[str, dict[str, Any]] = {
    "lr": {"epochs": 4},
    "fm": {"epochs": 15, "k": 4, "normalize": False, "learning_rate": 0.1, "l2": 1e-4},
    "ffm": {"epochs": 15, "k": 4, "normalize": False, "learning_rate": 0.1, "l2": 1e-4},
    "deepfm": {"epochs": 5, "batch_displays": 128, "embedding_dim": 4, "hidden": (), "embedding_learning_rate": 0.1},
}


def test_data_from_a_model_is_learned_back(recovery: tuple[str, Encoded, Any], runtime: RuntimeConfig) -> None:
    """The loss on new data comes close to that of the true scores; a lesser model stays far from it."""
    true, encoded, distance = recovery
    found = {}
    for name, values in MODELS.items():
        kind = load_kind(name)
        model = kind.build(kind.config(**values))
        model.fit(encoded, FitOptions(runtime=replace(runtime, threads=1)))
        found[name] = distance(model.predict(encoded.part("target")))
    near = {"lr": ["lr"], "fm": ["fm", "deepfm", "ffm"], "ffm": ["ffm"]}[true]
    far = {"lr": [], "fm": ["lr"], "ffm": ["lr", "fm", "deepfm"]}[true]
    assert max(found[name] for name in near) < 0.1, found
    assert all(found[name] > 3 * max(found[n] for n in near) for name in far), found
