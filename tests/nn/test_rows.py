"""The optimisers of table rows against torch's own on a dense gradient, whatever the threads and pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.nn import rows
from pipeline.nn.batches import Batch, Inputs, Reader
from pipeline.nn.layers import FieldEmbedding
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
    for _, batch in Reader(part, inputs, 13).in_order():
        found = [g for piece in [*batch.pieces(), batch] for g in gradients(table, piece)]
        ids, sums = add_up(found, decay)
        expected = naive(table.weight, found, decay)
        assert sorted(ids.tolist()) == expected.abs().sum(1).nonzero().flatten().tolist()
        torch.testing.assert_close(sums.double(), expected[ids], rtol=1e-4, atol=1e-4)


@pytest.fixture
def reference(part: EncodedPart, inputs: Inputs) -> dict[str, Tensor]:
    """The table after three epochs of torch's own optimisers, given sparse gradients."""
    found = {}
    for kind in ("adam", "adagrad"):
        table = table_of(inputs)
        weight = torch.nn.Parameter(table.weight.clone())
        own = {"adam": torch.optim.SparseAdam, "adagrad": torch.optim.Adagrad}[kind]([weight], lr=RATE)
        for _ in range(3):
            for _, batch in Reader(part, inputs, 7).in_order():
                with torch.no_grad():
                    table.weight.copy_(weight)
                ids, sums = add_up(gradients(table, batch), 0.1)
                weight.grad = torch.sparse_coo_tensor(
                    ids.unsqueeze(0), sums, weight.shape, check_invariants=True
                ).coalesce()
                own.step()
        found[kind] = weight.detach()
    return found


def train(part: EncodedPart, inputs: Inputs, kind: Kind, threads: Threads) -> Tensor:
    table = table_of(inputs)
    optimizer = RowOptimizer(table, kind, RATE, threads)
    for _ in range(3):
        for _, batch in Reader(part, inputs, 7).in_order():
            optimizer.step(gradients(table, batch), 0.1)
    return table.weight


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_as_torch(
    part: EncodedPart,
    inputs: Inputs,
    reference: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    kernels: bool,
) -> None:
    monkeypatch.setattr(rows, "has_kernels", lambda tensor: kernels)
    with Threads(2) as threads:
        found = train(part, inputs, kind, threads)
    torch.testing.assert_close(found, reference[kind], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, table_of(inputs).weight, atol=1e-2)


def test_threads_do_not_change_a_bit(part: EncodedPart, inputs: Inputs) -> None:
    found = []
    for count in (1, 2, 3, 11):
        with Threads(count) as threads:
            found.append(train(part, inputs, "adam", threads))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_rows_that_were_not_read_stand_still(part: EncodedPart, inputs: Inputs) -> None:
    table = table_of(inputs)
    before = table.weight.clone()
    batch = next(batch for _, batch in Reader(part, inputs, 2).in_order())
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
    batch = next(batch for _, batch in Reader(part, inputs, 20).in_order())
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
