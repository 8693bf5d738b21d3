"""The optimisers of table rows against torch's own on a dense gradient, whatever the threads and pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.nn import rows
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.layers import FieldEmbedding
from pipeline.nn.reading import Reader
from pipeline.nn.rows import Gradient, Kind, RowOptimizer, add_up
from pipeline.nn.threads import Threads
from pipeline.schemas.encoded import EncodedPart
from tests.synthetic import MIXED, mixed, part_of

SIZE, RATE = 3, 0.05


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> EncodedPart:
    return part_of(tmp_path_factory.mktemp("rows") / "encoded", MIXED, mixed(np.random.default_rng(5), 60))


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs(MIXED)


def table_of(inputs: Inputs) -> FieldEmbedding:
    torch.manual_seed(0)
    return FieldEmbedding(inputs, SIZE)


def gradients(table: FieldEmbedding, batch: Batch) -> list[Gradient]:
    """Any function of what was read has gradients; these are of a fixed random one."""
    batch.reads.clear()
    table(batch)
    found = []
    for read in batch.reads:
        generator = torch.Generator().manual_seed(read.weights.numel())
        of = [torch.randn(x.shape, generator=generator) for x in (read.weights, read.embeddings)]
        found.append(Gradient(read, of[0], of[1]))
    batch.reads.clear()
    return found


def naive(table: Tensor, found: list[Gradient], decay: float) -> Tensor:
    """The gradient of the whole table, by a loop over everything that was read."""
    total = torch.zeros_like(table, dtype=torch.float64)
    for g in found:
        values = g.read.values
        for i in range(len(values.codes)):
            read = torch.cat([g.read.weights[i].unsqueeze(1), g.read.embeddings[i]], dim=1).detach()
            of = torch.cat([g.weights[i].unsqueeze(1), g.embeddings[i]], dim=1) + decay * g.read.repeats[i] * read
            for f, code in enumerate(values.codes[i].tolist()):
                total[code] += of[f]
            for j, offsets in enumerate(values.bag_offsets):
                for k in range(int(offsets[i]), int(offsets[i + 1])):
                    total[values.bag_ids[k]] += values.bag_weights[k] * of[values.codes.shape[1] + j]
    return total


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_gradients_are_added_up_by_id(part: EncodedPart, inputs: Inputs, decay: float) -> None:
    table = table_of(inputs)
    for _, read in Reader(part, inputs, 13).in_order():
        batch = read()
        found = [g for piece in [*batch.pieces(), batch] for g in gradients(table, piece)]
        ids, sums = add_up(found, decay)
        expected = naive(table.weight, found, decay)
        assert sorted(ids.tolist()) == expected.abs().sum(1).nonzero().flatten().tolist()
        torch.testing.assert_close(sums.double(), expected[ids], rtol=1e-4, atol=1e-4)


def dense(
    inputs: Inputs, kind: Kind, batches: list[Batch], decay: float = 0.1, started: int = 0, start: float = 0.0
) -> list[Tensor]:
    """The table after each step of torch's own optimiser, which changes all of it every time."""
    table = table_of(inputs)
    weight = torch.nn.Parameter(table.weight.clone())
    own = torch.optim.Adam([weight], lr=RATE)
    if kind == "adagrad":
        own = torch.optim.Adagrad([weight], lr=RATE, initial_accumulator_value=start)
    if started:
        own.state[weight] = {
            "step": torch.tensor(float(started)),
            **{name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")},
        }
    found = []
    for batch in batches:
        table.weight.copy_(weight.detach())
        weight.grad = torch.zeros_like(weight)
        ids, sums = add_up(gradients(table, batch), decay)
        weight.grad[ids] = sums
        own.step()
        found.append(weight.detach().clone())
    return found


def sparse(
    inputs: Inputs,
    kind: Kind,
    batches: list[Batch],
    threads: Threads,
    decay: float = 0.1,
    started: int = 0,
    gap: int = 1,
    start: float = 0.0,
) -> list[Tensor]:
    """The table after each step of ours, as if its rows had been read `gap` steps before the first one."""
    table = table_of(inputs)
    optimizer = RowOptimizer(table, kind, RATE, threads, start)
    optimizer.steps = started
    optimizer.last[:] = started + 1 - gap
    found = []
    for batch in batches:
        optimizer.step(gradients(table, batch), decay)
        found.append(table.weight.detach().clone())
    return found


def batches_of(part: EncodedPart, inputs: Inputs, displays: int) -> list[Batch]:
    return [read() for _, read in Reader(part, inputs, displays).in_order()]


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize(
    ("kind", "displays", "epochs", "start"), [("adam", 60, 20, 0.0), ("adagrad", 7, 3, 0.0), ("adagrad", 7, 3, 0.3)]
)
def test_as_torch(
    part: EncodedPart,
    inputs: Inputs,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    displays: int,
    epochs: int,
    start: float,
    kernels: bool,
) -> None:
    """Adam where each step reads every row; AdaGrad whatever is read."""
    monkeypatch.setattr(rows, "has_kernels", lambda tensor: kernels)
    batches = batches_of(part, inputs, displays) * epochs
    with Threads(2) as threads:
        found = sparse(inputs, kind, batches, threads, start=start)[-1]
    torch.testing.assert_close(found, dense(inputs, kind, batches, start=start)[-1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, table_of(inputs).weight, atol=1e-2)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("gap", [2, 5, 40])
def test_adam_goes_ahead_over_even_gaps(
    part: EncodedPart, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, gap: int, kernels: bool
) -> None:
    """Where rows are read every so many steps, they stand after each as they do in torch's Adam before the next."""
    monkeypatch.setattr(rows, "has_kernels", lambda tensor: kernels)
    batch, other = (batches_of(part, inputs, 1)[i] for i in (0, 1))
    read, of_other = (set(add_up(gradients(table_of(inputs), b), 0.0)[0].tolist()) for b in (batch, other))
    ids = torch.tensor(sorted(read - of_other))
    assert len(ids)
    batches = ([batch] + [other] * (gap - 1)) * 4
    late = 100_000  # when the corrections of the first steps are over
    expected = dense(inputs, "adam", batches, 0.0, late)
    with Threads(2) as threads:
        found = sparse(inputs, "adam", batches, threads, 0.0, late, gap)
    for turn in range(4):
        before_the_next = expected[turn * gap + gap - 1][ids]
        torch.testing.assert_close(found[turn * gap][ids], before_the_next, rtol=1e-3, atol=1e-4)


def test_threads_do_not_change_a_bit(part: EncodedPart, inputs: Inputs) -> None:
    found = []
    for count in (1, 2, 3, 11):
        with Threads(count) as threads:
            found.append(sparse(inputs, "adam", batches_of(part, inputs, 7) * 3, threads)[-1])
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_rows_that_were_not_read_stand_still(part: EncodedPart, inputs: Inputs) -> None:
    table = table_of(inputs)
    before = table.weight.clone()
    batch = next(read() for _, read in Reader(part, inputs, 2).in_order())
    found = gradients(table, batch)
    with Threads(2) as threads:
        optimizer = RowOptimizer(table, "adam", RATE, threads)
        optimizer.step(found, 0.0)
        optimizer.step(found, 0.0)
    changed = (table.weight != before).any(1)
    assert changed.nonzero().flatten().tolist() == sorted(add_up(found, 0.0)[0].tolist())
    assert not optimizer.state[~changed].any()
    assert 0 < int(changed.sum()) < len(changed)


def test_state_is_saved_and_restored(part: EncodedPart, inputs: Inputs) -> None:
    batch = next(read() for _, read in Reader(part, inputs, 20).in_order())
    tables = [table_of(inputs), table_of(inputs)]
    with Threads(1) as threads:
        first, second = (RowOptimizer(table, "adam", RATE, threads) for table in tables)
        first.step(gradients(tables[0], batch), 0.0)
        with torch.no_grad():
            tables[1].weight.copy_(tables[0].weight)
        second.load_state_dict(first.state_dict())
        for optimizer, table in zip((first, second), tables, strict=True):
            optimizer.step(gradients(table, batch), 0.0)
    assert torch.equal(tables[0].weight, tables[1].weight)
