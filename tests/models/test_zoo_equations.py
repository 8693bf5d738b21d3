"""Logits of the further networks against naive loops over their papers' formulas, and how they nest."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.errors import ParameterError
from pipeline.core.runtime import RuntimeConfig
from pipeline.metrics import auc, map12
from pipeline.models import dcnv2, deepfm, deeplight, normdnn, wide_deep
from pipeline.models.base import load_kind
from pipeline.nn.batches import Inputs
from pipeline.nn.crosses import Crosses
from pipeline.nn.layers import Shared
from pipeline.nn.norms import NORM_EPSILON, layer_norm, variance_only
from pipeline.nn.pruning import sparsity
from pipeline.nn.reading import Reader
from pipeline.nn.sparse import SparseNetwork
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.impressions import PARTS
from pipeline.schemas.predictions import labels_of, within_display_logits
from tests.models.test_equations import (
    Floats,
    listwise_loss,
    logits_of,
    naive_linear,
    naive_terms,
    randomised,
)
from tests.synthetic import MIXED, Bag, Displays, categorical, draw_clicks, mixed, multi, write_encoded, write_mixed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return write_mixed(tmp_path_factory.mktemp("zoo") / "encoded", displays=40, seed=5)


@pytest.fixture(scope="module")
def inputs(world: Encoded) -> Inputs:
    return Inputs(list(world.fields.values()))


def norm(name: str, x: Floats, epsilon: float = NORM_EPSILON) -> Floats:
    if name == "none":
        return x
    variance = np.mean((x - x.mean()) ** 2)
    return (x - (x.mean() if name == "layer" else 0)) / np.sqrt(variance + epsilon)


def naive_mlp(layers: Any, x: Floats, hidden_norm: str = "none", epsilon: float = NORM_EPSILON) -> float:
    linears = [m for m in layers if isinstance(m, (torch.nn.Linear, Shared))]
    for layer in linears[:-1]:
        x = layer.weight.detach().numpy().astype(float) @ x + layer.bias.detach().numpy().astype(float)
        x = np.maximum(norm(hidden_norm, x, epsilon), 0)
    return float((linears[-1].weight.detach().numpy().astype(float) @ x)[0])


# --- normdnn ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding_norm", ["none", "layer", "variance"])
@pytest.mark.parametrize("hidden_norm", ["none", "layer", "variance"])
def test_normdnn(world: Encoded, inputs: Inputs, embedding_norm: Any, hidden_norm: Any) -> None:
    config = normdnn.Config(
        embedding_dim=3, hidden=(6, 5), embedding_norm=embedding_norm, hidden_norm=hidden_norm, dropout=0.5
    )
    network, part = randomised(normdnn.NormDNN(inputs, config)), world.part("history")
    found, gap = logits_of(network, part, inputs), len(inputs.display.numeric)
    for row in range(part.rows):
        terms = naive_terms(network, world, part, row)
        displays = len(inputs.display.embedded)
        normed = [norm(embedding_norm, e, config.epsilon) for e in terms.embeddings]
        h_0 = np.concatenate([*normed[:displays], terms.numbers[:gap], *normed[displays:], terms.numbers[gap:]])
        expected = naive_linear(network, terms) + naive_mlp(network.mlp.layers, h_0, hidden_norm, config.epsilon)
        assert found[row] == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_norms_of_a_vector() -> None:
    x = torch.tensor([[1.0, 2.0, 4.0, 5.0]], dtype=torch.float64)
    np.testing.assert_allclose(variance_only(x).std(1, unbiased=False), 1, rtol=1e-5)
    np.testing.assert_allclose(variance_only(x)[0] / x[0], (variance_only(x) / x)[0, 0].item() * np.ones(4))
    np.testing.assert_allclose(layer_norm(x).mean(), 0, atol=1e-12)
    assert torch.equal(variance_only(torch.zeros(2, 3)), torch.zeros(2, 3)), "an empty bag stays 0"
    random = torch.Generator().manual_seed(0)
    y = torch.randn(3, 5, dtype=torch.float64, generator=random, requires_grad=True)
    assert torch.autograd.gradcheck(variance_only, (y,))


def test_normdnn_without_norms_is_the_deep_part_and_lr(world: Encoded, inputs: Inputs) -> None:
    """The plain network: Wide & Deep without crosses."""
    plain = normdnn.Config(embedding_dim=3, hidden=(6,), embedding_norm="none", hidden_norm="none")
    network = randomised(normdnn.NormDNN(inputs, plain))
    other = wide_deep.WideDeep(inputs, wide_deep.Config(embedding_dim=3, hidden=(6,))).eval()
    other.load_state_dict(network.state_dict())
    part = world.part("history")
    np.testing.assert_array_equal(logits_of(network, part, inputs), logits_of(other, part, inputs))


# --- dcnv2 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_dcnv2(world: Encoded, inputs: Inputs, rank: int | None, hidden: tuple[int, ...]) -> None:
    config = dcnv2.Config(embedding_dim=2, cross_layers=2, rank=rank, hidden=hidden)
    network, part = randomised(dcnv2.DCNv2(inputs, config)), world.part("history")
    found = logits_of(network, part, inputs)
    for row in range(part.rows):
        terms = naive_terms(network, world, part, row)
        displays, numbers = len(inputs.display.embedded), len(inputs.display.numeric)
        x_0 = np.concatenate(
            [
                *terms.embeddings[:displays],
                terms.numbers[:numbers],
                *terms.embeddings[displays:],
                terms.numbers[numbers:],
            ]
        )
        # rows: fields and numbers of displays come before those of impressions
        x_l = x_0
        for cross in network.crosses:
            layers = [cross.times] if rank is None else list(cross.times)
            y = x_l
            for layer in layers:
                y = layer.weight.detach().numpy().astype(float) @ y
                y = y if layer.bias is None else y + layer.bias.detach().numpy()
            x_l = np.array([a * b + c for a, b, c in zip(x_0, y, x_l, strict=True)])
        expected = float(network.w_cross.weight.detach().numpy()[0].astype(float) @ x_l + network.w_cross.bias.item())
        if hidden:
            expected += naive_mlp(network.mlp.layers, terms.inputs)
        assert found[row] == pytest.approx(expected, abs=1e-5, rel=1e-5)


# --- wide & deep --------------------------------------------------------------------------------------------------

CROSSES = ("page x ad", "topic x page", "ad x viewed", "ad x topic")


def naive_crosses(crosses: Crosses, encoded: Encoded, inputs: Inputs, row: int) -> float:
    """The weight of each pair of values; which one, only the layer's hash knows."""
    part = encoded.part("history")
    display = int(np.searchsorted(part.offsets, row, side="right")) - 1
    firsts = {}
    for side in (inputs.display, inputs.impression):
        firsts |= {f.name: int(first) for f, first in zip(side.embedded, side.first_ids, strict=True)}
    sizes = {name: encoded.fields[name] for name in firsts}
    table = crosses.table.weight.detach().numpy()[:, 0].astype(float)

    def values(name: str) -> list[tuple[int, float]]:
        at = display if sizes[name].per == "display" else row
        if sizes[name].kind == "categorical":
            return [(firsts[name] + int(part.field(name)[at]), 1.0)]
        start, end = part.field(name, "offsets")[at : at + 2]
        return [
            (firsts[name] + int(part.field(name, "ids")[k]), float(part.field(name, "weights")[k]))
            for k in range(start, end)
        ]

    total = 0.0
    ordered = sorted(CROSSES, key=lambda text: any(sizes[n].kind == "multi" for n in text.split(" x ")))
    for region, text in enumerate(ordered):
        a, b = sorted(text.split(" x "), key=lambda name: sizes[name].kind != "multi")
        for i, weight in values(a):
            for j, other in values(b):
                mixed = (i * 2_654_435_761 % 2**31) ^ j
                slot = (mixed * 2_654_435_761 >> 12) % 2**crosses.bits + region * 2**crosses.bits
                total += weight * other * table[slot]
    return total


def test_wide_deep(world: Encoded, inputs: Inputs) -> None:
    config = wide_deep.Config(embedding_dim=3, hidden=(6,), crosses=CROSSES, cross_bits=6)
    network, part = randomised(wide_deep.WideDeep(inputs, config)), world.part("history")
    assert network.phi is not None
    found = logits_of(network, part, inputs)
    for row in range(part.rows):
        terms = naive_terms(network, world, part, row)
        expected = naive_linear(network, terms) + naive_crosses(network.phi, world, inputs, row)
        assert found[row] == pytest.approx(expected + naive_mlp(network.mlp.layers, terms.inputs), abs=1e-5)


@pytest.mark.parametrize(
    ("crosses", "message"),
    [
        (("page",), "expected two fields, such as `platform x ad_id`, found 'page'"),
        (("page x nothing",), "nothing: no ids that are read"),
        (("page x age",), "age: no ids that are read"),
        (("topic x viewed",), "both fields have several values"),
    ],
)
def test_crosses_that_make_no_sense(inputs: Inputs, crosses: tuple[str, ...], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Crosses(inputs, crosses, 4)


@pytest.mark.parametrize("crosses", [(), ("page x ad",)])
def test_crosses_of_hidden_fields_are_left_out(
    tmp_path: Path, runtime: RuntimeConfig, caplog: pytest.LogCaptureFixture, crosses: tuple[str, ...]
) -> None:
    """As if they had not been named; also by a model that was saved and loaded."""
    displays = mixed(np.random.default_rng(0), 60)
    encoded = write_encoded(tmp_path / "encoded", MIXED, displays, displays, hidden=("leak",))
    found = []
    for named in (crosses, ("leak x ad", *crosses, "page x leak")):
        config = wide_deep.Config(crosses=named, cross_bits=5, hidden=(), epochs=2, batch_displays=16)
        model = wide_deep.build(config)
        with caplog.at_level("INFO", "pipeline"):
            model.fit(encoded, FitOptions(runtime=runtime))
        found.append(model.predict(encoded.part("target")))
    np.testing.assert_array_equal(found[0], found[1])
    model.save(tmp_path)
    loaded = wide_deep.build(config)
    loaded.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict(encoded.part("target")), found[1])
    assert "crosses: page x leak is left out, since it knows of the future" in caplog.messages


def test_a_cross_is_learned_that_lr_cannot_see(tmp_path: Path, runtime: RuntimeConfig) -> None:
    """The click is the ad whose number equals the page's, which no single field tells."""
    random = np.random.default_rng(0)

    def drawn(displays: int) -> Displays:
        ad = np.concatenate([random.permutation(6)[:4] for _ in range(displays)])
        page = np.array([random.choice(row) for row in ad.reshape(-1, 4)])
        clicked = (ad == np.repeat(page, 4)).astype(np.uint8)
        return Displays(np.full(displays, 4), {"ad": ad, "page": np.repeat(page, 4)}, clicked)

    fields = [categorical("ad", 6), categorical("page", 6, "display")]
    encoded = write_encoded(tmp_path / "encoded", fields, drawn(600), drawn(200))
    kind = load_kind("wide_deep")
    scores = {}
    for crosses in ((), ("page x ad",)):
        config = kind.config(
            crosses=crosses, cross_bits=10, hidden=(), epochs=6, batch_displays=32, embedding_learning_rate=0.1, l2=0.0
        )
        model = kind.build(config)
        model.fit(encoded, FitOptions(runtime=runtime))
        scores[crosses] = map12(model.predict(encoded.part("target")), labels_of(encoded.part("target")))
    assert scores[()] < 0.7
    assert scores["page x ad",] > 0.95


# --- deeplight ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5, 4)])
@pytest.mark.parametrize("pruned", [False, True])
def test_deeplight(world: Encoded, inputs: Inputs, hidden: tuple[int, ...], pruned: bool) -> None:
    """The network and the compiled loop over what is left of it, against the formula."""
    config = deeplight.Config(embedding_dim=3, hidden=hidden)
    network, part = randomised(deeplight.DeepLight(inputs, config)), world.part("history")
    if pruned:
        assert network.prune(0.5, lambda: torch.ones_like(network.embed.weight))
    found, matrix = logits_of(network, part, inputs), network.pairs.matrix().detach().numpy()
    sparse = SparseNetwork(network.embed, network.linear, network.pairs, network.mlp)
    quick = np.concatenate([sparse(read()).numpy() for _, read in Reader(part, inputs, 7).in_order()])
    for row in range(part.rows):
        terms = naive_terms(network, world, part, row)
        expected = naive_linear(network, terms)
        for i, e in enumerate(terms.embeddings):
            for j in range(i + 1, len(terms.embeddings)):
                expected += matrix[i, j] * float(e @ terms.embeddings[j])
        if hidden:
            expected += naive_mlp(network.mlp.layers, terms.inputs)
        assert found[row] == pytest.approx(expected, abs=1e-5)
        assert quick[row] == pytest.approx(expected, abs=1e-5)


def test_unpruned_with_all_pairs_alike_it_is_deepfm(world: Encoded, inputs: Inputs) -> None:
    network = randomised(deepfm.DeepFM(inputs, deepfm.Config(embedding_dim=3, hidden=(6,))))
    other = deeplight.DeepLight(inputs, deeplight.Config(embedding_dim=3, hidden=(6,))).eval()
    missing, unexpected = other.load_state_dict(network.state_dict(), strict=False)
    assert (set(missing), unexpected) == ({"turned", "pairs.weight"}, [])
    part = world.part("history")
    np.testing.assert_allclose(logits_of(network, part, inputs), logits_of(other, part, inputs), atol=1e-5)


def test_pruning_reaches_its_shares_along_the_schedule(inputs: Inputs) -> None:
    config = deeplight.Config(embedding_dim=8, hidden=(64, 32), warmup=0.1, omega=0.4, damping=0.02)
    network = randomised(deeplight.DeepLight(inputs, config))
    squares, last = torch.rand_like(network.embed.weight), network.mlp.layers[-1].weight.clone()

    def shares() -> list[float]:
        above = network.pairs.weight[torch.ones_like(network.pairs.weight, dtype=torch.bool).triu(1)]
        hidden = torch.cat([weight.flatten() for weight in network.mlp.weights()])
        return [sparsity(weight.detach()) for weight in (network.embed.weight[:, 1:], above, hidden)]

    assert not network.prune(0.1, lambda: squares)
    assert shares() == [0.0] * len(shares())
    assert not network.prune(0.3, lambda: squares)
    np.testing.assert_allclose(shares(), np.array([0.9, 0.6, 0.95]) * (1 - 0.02 ** (2 / 4)), atol=0.03)
    kept = torch.cat([weight.detach().abs().flatten() for weight in network.mlp.weights()])
    assert network.prune(0.5, lambda: squares)
    np.testing.assert_allclose(shares(), [0.9, 0.6, 0.95], atol=0.03)
    left = torch.cat([weight.detach().abs().flatten() for weight in network.mlp.weights()])
    assert left[left > 0].min() > kept[left == 0].max(), "of all layers together the largest stay"
    assert torch.equal(network.mlp.layers[-1].weight, last)


@pytest.mark.parametrize("hidden", [(), (6, 5)])
def test_turned_embeddings_give_the_same_logits(world: Encoded, inputs: Inputs, hidden: tuple[int, ...]) -> None:
    network = randomised(deeplight.DeepLight(inputs, deeplight.Config(embedding_dim=4, hidden=hidden)))
    embeddings, squares = network.embed.weight[:, 1:], torch.rand_like(network.embed.weight)
    embeddings[:, 3] = embeddings[:, 0] - 2 * embeddings[:, 1]  # of their 4 dimensions 3 are used
    before = logits_of(network, world.part("history"), inputs)
    network.turn(squares)
    np.testing.assert_allclose(logits_of(network, world.part("history"), inputs), before, atol=1e-4)
    assert embeddings[:, 0].abs().max() < 1e-4
    assert embeddings[:, 1:].abs().max(0).values.min() > 0.1
    felt = (embeddings.square() * squares[:, 1:].mean(1, keepdim=True)).sum(0)
    assert torch.equal(felt, felt.sort().values)


def test_embeddings_that_the_loss_feels_most_are_kept(inputs: Inputs) -> None:
    network = randomised(deeplight.DeepLight(inputs, deeplight.Config()))
    squares = torch.rand_like(network.embed.weight) ** 4
    squares[:3] = 0
    network.turn(squares)
    before = network.embed.weight.clone()
    assert network.prune(1.0, lambda: squares)
    assert torch.equal(network.embed.weight[:, 0], before[:, 0])
    kept, felt = network.embed.weight[:, 1:] != 0, before[:, 1:].square() * squares[:, 1:]
    assert felt[kept].min() > felt[~kept].max()
    assert before[:, 1:][kept].abs().min() < before[:, 1:][~kept].abs().max(), "not simply the largest"
    assert not kept[:3].any(), "what was never read goes first"


def test_embeddings_are_turned_once(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are pruned for the first time, even if one is 0 by chance; never again, also after a restart."""
    turns, turn = [], deeplight.DeepLight.turn
    monkeypatch.setattr(deeplight.DeepLight, "turn", lambda network, squares: (turns.append(1), turn(network, squares)))
    first, restarted = (deeplight.DeepLight(inputs, deeplight.Config()) for _ in range(2))
    first.embed.weight[0, 1] = 0.0
    squares = torch.rand_like(first.embed.weight)
    for done in (0.1, 0.2, 0.3):
        first.prune(done, lambda: squares)
        assert len(turns) == (done > 0.15)
    restarted.load_state_dict(first.state_dict())
    restarted.prune(0.4, lambda: squares)
    assert len(turns) == 1


def test_units_that_nothing_reads_are_not_computed(world: Encoded, inputs: Inputs) -> None:
    network, part = randomised(deeplight.DeepLight(inputs, deeplight.Config(hidden=(6, 5, 4)))), world.part("history")
    first, second, third = (network.mlp.layers[i] for i in (0, 3, 6))
    with torch.no_grad():
        third.weight[:, 2] = 0  # of the second layer's units
        second.weight[[0, 1, 3, 4], 5] = 0  # only that one read the first layer's last unit
    sparse = SparseNetwork(network.embed, network.linear, network.pairs, network.mlp)
    deep = sparse.network[-1]
    assert (len(first.bias), deep.hidden, deep.borders.tolist()) == (6, 5, [0, 4, 8])
    quick = np.concatenate([sparse(read()).numpy() for _, read in Reader(part, inputs, 7).in_order()])
    np.testing.assert_allclose(quick, logits_of(network, part, inputs), atol=1e-4)


def test_it_trains_to_its_shares_and_predicts_by_what_is_left(tmp_path: Path, runtime: RuntimeConfig) -> None:
    encoded = write_mixed(tmp_path / "encoded", displays=300, seed=1)
    config = deeplight.Config(embedding_dim=4, hidden=(16,), epochs=4, batch_displays=32, embedding_learning_rate=0.05)
    model = deeplight.build(config)
    fitted = model.fit(encoded, FitOptions(runtime=runtime))
    assert fitted.length >= 2, "only what is pruned in full is measured"
    assert next(point["step"] for point in fitted.curve) == 2
    assert isinstance(model, deeplight.DeepLightModel)
    assert isinstance(model.network, deeplight.DeepLight)
    assert sparsity(model.network.embed.weight[:, 1:]) == pytest.approx(0.9, abs=0.02)
    assert isinstance(model.score, SparseNetwork)
    quick = model.predict(encoded.part("target"))
    score = logits_of(model.network.eval(), encoded.part("target"), Inputs(model.fields))
    dense = within_display_logits(score, encoded.part("target").offsets)
    np.testing.assert_allclose(quick, dense, atol=1e-4)


def test_pruned_it_ranks_as_well_as_dense(tmp_path: Path, runtime: RuntimeConfig) -> None:
    """Within 0.01 of AUC, with a tenth of the embeddings; the clicks are drawn from weights of ads and one factor."""
    random = np.random.default_rng(1)
    weights, factor = random.normal(size=24), 2 * np.outer(random.normal(size=24), random.normal(size=7))

    def drawn(displays: int) -> Displays:
        found = mixed(random, displays)
        ad, page = found.columns["ad"], found.columns["page"]
        return replace(found, clicked=draw_clicks(random, weights[ad] + factor[ad, page], found.lengths))

    encoded = write_encoded(tmp_path / "encoded", MIXED, drawn(1500), drawn(1000))
    target = encoded.part("target")
    pruned = deeplight.Config(
        embedding_dim=16, hidden=(32, 16), epochs=6, patience=6, batch_displays=32, embedding_learning_rate=0.1
    )
    dense = replace(pruned, embedding_sparsity=0.0, hidden_sparsity=0.0, pair_sparsity=0.0)
    found = []
    for config in (dense, pruned):
        model = deeplight.build(config)
        model.fit(encoded, FitOptions(runtime=runtime))
        found.append(auc(model.predict(target), labels_of(target).clicked))
    assert isinstance(model, deeplight.DeepLightModel)
    assert isinstance(model.score, SparseNetwork)
    assert isinstance(model.network, deeplight.DeepLight)
    assert sparsity(model.network.embed.weight[:, 1:]) > 0.85
    assert 0.8 < found[0] < 0.95
    assert found[1] > found[0] - 0.01


@pytest.mark.parametrize("wrong", [{"warmup": 0.8}, {"omega": 0.0}, {"damping": 1.0}, {"pair_sparsity": 1.0}])
def test_schedules_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        deeplight.Config(**wrong)


# --- recovery -----------------------------------------------------------------------------------------------------

NETWORKS: dict[str, Any] = {
    "dcnv2": dcnv2.DCNv2,
    "deeplight": deeplight.DeepLight,
    "normdnn": normdnn.NormDNN,
    "wide_deep": wide_deep.WideDeep,
}
TRAINED: dict[str, Any] = {
    "embedding_dim": 4,
    "hidden": (16,),
    "dropout": 0.0,
    "l2": 0.0,
    "epochs": 8,
    "patience": 8,
    "batch_displays": 128,
    "learning_rate": 0.01,
    "embedding_learning_rate": 0.1,
}
UNPRUNED = {"embedding_sparsity": 0.0, "hidden_sparsity": 0.0, "pair_sparsity": 0.0}


def five_ads(random: np.random.Generator, displays: int) -> Displays:
    """Displays of 5 ads of 12, each with one topic, on 8 pages; nobody has clicked yet."""
    columns = {
        "ad": np.concatenate([random.choice(12, 5, replace=False) for _ in range(displays)]),
        "page": np.repeat(random.integers(0, 8, displays), 5),
        "topic": Bag.of([[(int(topic), 1.0)] for topic in random.integers(0, 6, 5 * displays)]),
    }
    return Displays(np.full(displays, 5), columns, np.zeros(5 * displays, np.uint8))


@pytest.mark.parametrize("name", NETWORKS)
def test_data_from_a_network_is_learned_back(name: str, tmp_path: Path, runtime: RuntimeConfig) -> None:
    """The loss on new data comes close to that of the true scores; that of an lr stays far from it.

    The true scores are a drawn network's, without the weights w_i, and stretched to a deviation of 2.
    """
    fields = [categorical("ad", 12), categorical("page", 8, "display"), multi("topic", 6)]
    values, random = TRAINED | (UNPRUNED if name == "deeplight" else {}), np.random.default_rng(1)
    history, target = five_ads(random, 16_000), five_ads(random, 2000)
    unclicked = write_encoded(tmp_path / "unclicked", fields, history, target)
    inputs, kind = Inputs(list(unclicked.fields.values())), load_kind(name)
    truth = randomised(NETWORKS[name](inputs, kind.config(**values)))
    truth.embed.weight.data[:, 0] = 0
    past, new = (logits_of(truth, unclicked.part(part), inputs) for part in PARTS)
    past, new = 2 * past / past.std(), 2 * new / past.std()
    history, target = (
        replace(displays, clicked=draw_clicks(random, logits, displays.lengths))
        for displays, logits in ((history, past), (target, new))
    )
    encoded, true = write_encoded(tmp_path / "encoded", fields, history, target), listwise_loss(new, target)
    found = {}
    for fitted, config in ((kind, kind.config(**values)), (lr := load_kind("lr"), lr.config(epochs=4))):
        model = fitted.build(config)
        model.fit(encoded, FitOptions(runtime=replace(runtime, threads=1)))
        score = model.predict(encoded.part("target")).astype(float)
        found[fitted.name] = (listwise_loss(-np.logaddexp(0, -score), target) - true) / (math.log(5) - true)
    assert found[name] < 0.07, found
    assert found["lr"] > 3 * found[name], found
