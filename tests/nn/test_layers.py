"""What is computed once for each display equals what a plain layer computes for each row; kernels equal torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.nn import functions, perceptrons
from pipeline.nn.batches import Batch, Inputs, Values
from pipeline.nn.dropout import Dropout, random_numbers
from pipeline.nn.layers import MLP, FieldEmbedding, Linear, Shared, Sides, fm, input_sizes
from pipeline.nn.reading import Reader
from pipeline.schemas.encoded import Field
from tests.synthetic import MIXED, mixed, part_of

LENGTHS = [1, 4, 2, 6, 1]
ROWS = sum(LENGTHS)


@pytest.fixture(params=[True, False], ids=["kernels", "torch"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled loops, and with torch's operations as on other devices."""
    monkeypatch.setattr(functions, "has_kernels", lambda tensor: request.param)


def make_batch() -> Batch:
    nothing = torch.empty(0)
    values = Values(torch.empty(ROWS, 0), nothing, nothing, nothing, nothing)
    return Batch(values, values, torch.tensor([0, *LENGTHS]).cumsum(0), None)


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def by_row(values: Tensor) -> Tensor:
    return values[torch.tensor([d for d, length in enumerate(LENGTHS) for _ in range(length)])]


def assert_same(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    """Values, and gradients of some function of them."""
    torch.testing.assert_close(found, expected)
    weights = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view(found.shape)
    for mine, reference in zip(
        torch.autograd.grad((found.square() * weights).sum(), leaves),
        torch.autograd.grad((expected.square() * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_spread(shape: tuple[int, ...]) -> None:
    values = drawn(len(LENGTHS), *shape)
    assert_same(functions.spread(values, make_batch()), by_row(values), [values])
    assert torch.autograd.gradcheck(lambda x: functions.spread(x, make_batch()), (values,))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("fields", [(2, 3), (0, 3), (2, 0), (1, 1)])
def test_fm(fields: tuple[int, int]) -> None:
    display, impression = drawn(len(LENGTHS), fields[0], 4), drawn(ROWS, fields[1], 4)
    rows = torch.cat([by_row(display), impression], dim=1)
    pairs = [(rows[:, i] * rows[:, j]).sum(1) for i in range(rows.shape[1]) for j in range(i + 1, rows.shape[1])]
    expected = torch.stack(pairs).sum(0)
    assert_same(fm(Sides(display, impression, make_batch())), expected, [display, impression])
    assert torch.autograd.gradcheck(lambda a, b: functions.fm(a, b, make_batch()), (display, impression))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("fields", [(2, 3), (0, 3), (2, 0)])
def test_sum_weights(fields: tuple[int, int]) -> None:
    display, impression = drawn(len(LENGTHS), fields[0]), drawn(ROWS, fields[1])
    expected = torch.cat([by_row(display), impression], dim=1).sum(1)
    assert_same(functions.sum_weights(display, impression, make_batch()), expected, [display, impression])
    checked = lambda a, b: functions.sum_weights(a, b, make_batch())  # noqa: E731
    assert torch.autograd.gradcheck(checked, (display, impression))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("sizes", [(5, 3), (0, 3), (5, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_shared(sizes: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    layer = Shared(sizes, 6, bias).double()
    x = Sides(drawn(len(LENGTHS), sizes[0]), drawn(ROWS, sizes[1]), make_batch())
    rows = torch.cat([by_row(x.display), x.impression], dim=1)
    torch.testing.assert_close(x.rows(), rows)
    leaves = [x.display, x.impression, *layer.parameters()]
    assert_same(layer(x), torch.nn.functional.linear(rows, layer.weight, layer.bias), leaves)
    checked = lambda a, b, *rest: functions.shared_linear(a, b, rest[0], rest[1], (*rest, None)[2], make_batch())  # noqa: E731
    assert torch.autograd.gradcheck(checked, tuple(leaves))


def test_shared_begins_as_a_plain_layer() -> None:
    torch.manual_seed(3)
    plain = torch.nn.Linear(9, 4)
    torch.manual_seed(3)
    layer = Shared((5, 4), 4)
    assert torch.equal(layer.weight, plain.weight)
    assert torch.equal(layer.bias, plain.bias)


# --- on batches of every kind of field ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inputs, list[Batch]]:
    part = part_of(tmp_path_factory.mktemp("layers") / "encoded", MIXED, mixed(np.random.default_rng(3), 40))
    inputs = Inputs(MIXED)
    return inputs, [read() for _, read in Reader(part, inputs, 9).in_order()]


def plain(inputs: Inputs) -> list[Field]:
    """Fields in the order of rows."""
    return [*inputs.display.embedded, *inputs.impression.embedded]


@pytest.mark.usefixtures("either")
def test_embedding(read: tuple[Inputs, list[Batch]]) -> None:
    """Every weight and embedding of a row against a loop over its ids; nothing is noted outside of training."""
    inputs, batches = read
    embed = FieldEmbedding(inputs, 3)
    table = embed.weight
    for batch in batches:
        batch.reads.clear()
        with torch.no_grad():
            x = embed(batch)
            assert not batch.reads
            found = torch.cat([x.weights.rows().unsqueeze(2), x.embeddings.rows()], dim=2)
        for row, d in enumerate(batch.display_of.tolist()):
            expected = []
            for values, i in ((batch.display, d), (batch.impression, row)):
                expected += [table[code] for code in values.codes[i]]
                for offsets in values.bag_offsets:
                    bag = range(int(offsets[i]), int(offsets[i + 1]))
                    expected.append(
                        sum((values.bag_weights[k] * table[values.bag_ids[k]] for k in bag), torch.zeros(4))
                    )
            torch.testing.assert_close(found[row], torch.stack(expected))
        embed(batch)
        assert [r.per for r in batch.reads] == ["display", "impression"]
        assert batch.reads[0].repeats.tolist() == batch.lengths.tolist()
        batch.reads.clear()


@pytest.mark.usefixtures("either")
def test_networks_of_shared_layers_equal_networks_of_rows(read: tuple[Inputs, list[Batch]]) -> None:
    """Linear part, pairs and MLP, and the gradients of all that they were made from."""
    inputs, batches = read
    torch.manual_seed(0)
    embed, linear = FieldEmbedding(inputs, 3), Linear(inputs)
    mlp = MLP(input_sizes(inputs, 3), (6, 4), 0.0)
    for parameter in [*linear.parameters(), *mlp.parameters()]:
        torch.nn.init.normal_(parameter)
    first, *rest = [m for m in mlp.layers if isinstance(m, (Shared, torch.nn.Linear))]

    def naive(x: Any) -> Tensor:
        weights, embeddings, numbers = x.weights.rows(), x.embeddings.rows(), x.numbers.rows()
        total = embeddings.sum(1)
        pairs = 0.5 * (total.square() - embeddings.square().sum(1)).sum(1)
        hidden = torch.relu(torch.nn.functional.linear(x.inputs.rows(), first.weight, first.bias))
        hidden = torch.relu(torch.nn.functional.linear(hidden, rest[0].weight, rest[0].bias))
        logit = linear.bias + weights.sum(1) + numbers @ torch.cat([linear.display, linear.impression])
        return logit + pairs + (hidden @ rest[1].weight.t()).squeeze(1)

    for batch in batches:
        batch.reads.clear()
        x = embed(batch)
        leaves = [leaf for r in batch.reads for leaf in (r.weights, r.embeddings)]
        found = linear(x) + fm(x.embeddings) + mlp(x.inputs)
        assert_same_floats(found, naive(x), [*leaves, *linear.parameters(), *mlp.parameters()])
        batch.reads.clear()


def assert_same_floats(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for mine, reference in zip(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)


def test_map_treats_both_sides_alike() -> None:
    x = Sides(drawn(len(LENGTHS), 2, 4), drawn(ROWS, 3, 4), make_batch())
    normed: Callable[[Tensor], Tensor] = lambda e: e / e.var(-1, correction=0, keepdim=True).sqrt()  # noqa: E731
    torch.testing.assert_close(x.map(normed).rows(), normed(x.rows()))


# --- dropout ------------------------------------------------------------------------------------------------------


def test_dropout() -> None:
    layer, x = Dropout(0.3), torch.ones(200, 100)
    with random_numbers(torch.Generator().manual_seed(1)):
        first = layer(x)
        other = layer(x)
    torch.rand(3)  # the global generator must not matter
    with random_numbers(torch.Generator().manual_seed(1)):
        again = layer(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("norm", ["none", "layer", "variance"])
@pytest.mark.parametrize("hidden", [(6,), (6, 4)])
def test_compiled_mlp(norm: str, hidden: tuple[int, ...]) -> None:
    """As its layers compute it, dropout included; gradients against differences of finite size."""
    torch.manual_seed(0)
    mlp = MLP((5, 3), hidden, 0.3, norm).double()
    x = Sides(drawn(len(LENGTHS), 5), drawn(ROWS, 3), make_batch())

    def computed(*_: Tensor, by_layers: bool = False) -> Tensor:
        with random_numbers(torch.Generator().manual_seed(2)):
            return mlp.layers(x).squeeze(1) if by_layers else mlp(x)

    leaves = (x.display, x.impression, *mlp.parameters())
    assert_same(computed(), computed(by_layers=True), list(leaves))
    assert torch.autograd.gradcheck(computed, leaves)
    torch.testing.assert_close(computed().detach(), torch.no_grad()(computed)())
    assert not torch.equal(computed(), mlp.eval()(x))


def test_what_is_dropped() -> None:
    """A share of all numbers, each for itself, and other ones by another seed; none of them near each other."""
    found = [perceptrons.random_bits(torch.empty(1000, 64), seed) >= 0.25 * 2**32 for seed in (1, 2, 1 << 31)]
    for kept in found:
        assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.01)
        assert float((kept[:, 1:] & kept[:, :-1]).float().mean()) == pytest.approx(0.75**2, abs=0.01)
        assert float((kept[1:] & kept[:-1]).float().mean()) == pytest.approx(0.75**2, abs=0.01)
    assert float((found[0] & found[1]).float().mean()) == pytest.approx(0.75**2, abs=0.01)
    assert float((found[0] & found[2]).float().mean()) == pytest.approx(0.75**2, abs=0.01)
