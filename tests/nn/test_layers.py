"""What is computed once for each display equals what a plain layer computes for each row; kernels equal torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.nn import functions
from pipeline.nn.batches import Batch, Inputs, Values
from pipeline.nn.dropout import Dropout, random_bits, random_numbers
from pipeline.nn.layers import MLP, Embedded, FieldEmbedding, Linear, Shared, fm, input_sizes
from pipeline.nn.norms import Norm
from pipeline.nn.reading import Reader
from pipeline.nn.terms import Joined, Sides
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

    def found(display: Tensor, impression: Tensor) -> Tensor:
        return fm(Sides(display, impression, make_batch())).value()

    assert_same(found(display, impression), expected, [display, impression])
    assert torch.autograd.gradcheck(found, (display, impression))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("fields", [(2, 3), (0, 3), (2, 0)])
@pytest.mark.parametrize("numbers", [(2, 1), (0, 0)])
def test_linear(fields: tuple[int, int], numbers: tuple[int, int]) -> None:
    """b + sum of w_i + <v, numbers>"""
    layer, batch = Linear(Inputs([])).double(), make_batch()
    layer.display, layer.impression = (torch.nn.Parameter(drawn(k)) for k in numbers)
    weights = [drawn(n, count) for n, count in zip((len(LENGTHS), ROWS), fields, strict=True)]
    x, own = (drawn(n, count).detach() for n, count in zip((len(LENGTHS), ROWS), numbers, strict=True))

    def found(*weights: Tensor) -> Tensor:
        embedded = Embedded(Sides(*weights[:2], batch), Sides(*weights[:2], batch), Sides(x, own, batch))
        return layer(embedded).value()

    summed = torch.cat([by_row(weights[0]), weights[1]], dim=1).sum(1)
    leaves = [*weights, layer.bias, layer.display, layer.impression]
    used = [leaf for leaf in leaves if leaf.numel()]
    assert_same(found(*weights), layer.bias + summed + by_row(x) @ layer.display + own @ layer.impression, used)
    assert torch.autograd.gradcheck(found, tuple(leaves))


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
        found = (linear(x) + fm(x.embeddings) + mlp(x.inputs)).value()
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
    with random_numbers(1):
        first = layer(x)
        other = layer(x)
    torch.rand(3)  # the global generator must not matter
    with random_numbers(1):
        again = layer(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_a_term_of_each_kind() -> None:
    embeddings = Sides(drawn(len(LENGTHS), 2, 4), drawn(ROWS, 3, 4), make_batch())
    with pytest.raises(TypeError, match="at most one"):
        fm(embeddings) + fm(embeddings)
    other = Sides(drawn(len(LENGTHS), 2, 4), drawn(ROWS, 3, 4), make_batch())
    mlp = MLP((8, 12), (5,), 0.0).double()
    numbers = Sides(torch.empty(len(LENGTHS), 0).double(), torch.empty(ROWS, 0).double(), make_batch())
    with pytest.raises(TypeError, match="the embeddings that the MLP reads"):
        (fm(embeddings) + mlp(Joined(other, numbers))).value()
    once, extra = fm(embeddings), drawn(ROWS)
    assert_same((once + extra).value(), once.value() + extra, [embeddings.display, extra])


@pytest.mark.parametrize("norm", ["none", "layer", "variance"])
@pytest.mark.parametrize("of_embeddings", [None, "layer", "variance"])
@pytest.mark.parametrize(("hidden", "numbers"), [((6,), (3, 2)), ((6, 4), (0, 0)), ((20, 17, 5), (1, 0))])
def test_compiled_mlp(norm: str, of_embeddings: str | None, hidden: tuple[int, ...], numbers: tuple[int, int]) -> None:
    """As its layers compute it, dropout included; gradients against differences of finite size."""
    torch.manual_seed(0)
    fields, size = (2, 3), 4
    sizes = fields[0] * size + numbers[0], fields[1] * size + numbers[1]
    mlp, batch = MLP(sizes, hidden, 0.3, Norm(norm, 1e-2) if norm != "none" else None).double(), make_batch()
    embeddings = Sides(drawn(len(LENGTHS), fields[0], size), drawn(ROWS, fields[1], size), batch)
    x = Sides(drawn(len(LENGTHS), numbers[0]).detach(), drawn(ROWS, numbers[1]).detach(), batch)
    joined = Joined(embeddings, x, Norm(of_embeddings, 1e-3) if of_embeddings else None)

    def computed(*_: Tensor, by_layers: bool = False) -> Tensor:
        with random_numbers(2):
            return mlp.layers(joined.sides()).squeeze(1) if by_layers else mlp(joined).value()

    leaves = (embeddings.display, embeddings.impression, *mlp.parameters())
    assert_same(computed(), computed(by_layers=True), list(leaves))
    assert torch.autograd.gradcheck(computed, leaves)
    torch.testing.assert_close(computed().detach(), torch.no_grad()(computed)())
    assert not torch.equal(computed(), mlp.eval()(joined).value())


def test_products_of_many_rows() -> None:
    """More rows and wider layers than fit into a block, a panel and a tile."""
    torch.manual_seed(0)
    lengths = torch.randint(1, 8, (70,))
    nothing = torch.empty(0)
    values = Values(torch.empty(int(lengths.sum()), 0), nothing, nothing, nothing, nothing)
    batch = Batch(values, values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]), None)
    mlp = MLP((5 * 8 + 3, 9 * 8), (37, 50), 0.0, Norm("layer")).double()
    embeddings = Sides(drawn(70, 5, 8), drawn(batch.rows, 9, 8), batch)
    numbers = Sides(drawn(70, 3).detach(), torch.empty(batch.rows, 0).double(), batch)
    joined, leaves = Joined(embeddings, numbers), [embeddings.display, embeddings.impression, *mlp.parameters()]
    assert_same(mlp(joined).value(), mlp.layers(joined.sides()).squeeze(1), leaves)


def test_what_is_dropped() -> None:
    """A share of all numbers, each for itself, and other ones by another seed; none of them near each other."""
    found = [random_bits(torch.empty(1000, 64), seed) >= 0.25 * 2**32 for seed in (1, 2, 1 << 31)]
    for kept in found:
        assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.01)
        assert float((kept[:, 1:] & kept[:, :-1]).float().mean()) == pytest.approx(0.75**2, abs=0.01)
        assert float((kept[1:] & kept[:-1]).float().mean()) == pytest.approx(0.75**2, abs=0.01)
    assert float((found[0] & found[1]).float().mean()) == pytest.approx(0.75**2, abs=0.01)
    assert float((found[0] & found[2]).float().mean()) == pytest.approx(0.75**2, abs=0.01)
