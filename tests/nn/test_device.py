"""Networks away from the CPU, on a device that is only pretended: its tensors cannot be mixed with those of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.core import processes
from pipeline.core.errors import ParameterError
from pipeline.core.runtime import RuntimeConfig
from pipeline.models.base import load_kind
from pipeline.nn import exchange, functions
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.layers import FieldEmbedding
from pipeline.nn.network import Network
from pipeline.nn.reading import Reader
from pipeline.nn.steps import Optimizer
from pipeline.nn.threads import Threads
from pipeline.nn.training import device_of
from pipeline.schemas.encoded import EncodedPart
from tests.synthetic import MIXED, write_mixed

DEVICE = torch.device("meta")  # the name of the pretended device: without CUDA, torch makes no tensor of that name
INPUTS = Inputs(MIXED)
KINDS: dict[str, dict[str, Any]] = {
    "deepfm": {},
    "wide_deep": {"crosses": ("page x ad", "ad x viewed"), "cross_bits": 8},
    "normdnn": {},
    "dcnv2": {},
    "deeplight": {},
}


class Distant(Tensor):
    """A tensor whose memory, that of `near`, can be reached by operations of the device alone."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Any:
        place = near.stride(), near.storage_offset()
        distant: Any = Tensor._make_wrapper_subclass(cls, near.shape, *place, dtype=near.dtype, device=DEVICE)
        distant.near = near
        return distant

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} outside of the device")


class Device(TorchDispatchMode):
    """Runs the operations of the pretended device; those that mix it with the CPU fail, as they do on a GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [x for x in tree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        away, to = any(isinstance(x, Distant) for x in given), kwargs.pop("device", None)
        if to is not None:
            away, kwargs["device"] = to == DEVICE, torch.device("cpu")
        elif away:
            assert all(isinstance(x, Distant) or not x.dim() for x in given), f"{function}: tensors of two devices"
        args, kwargs = tree.tree_map_only(Distant, lambda x: x.near, (args, kwargs))
        found = function(*args, **kwargs)
        return tree.tree_map_only(Tensor, Distant, found) if away else found


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> EncodedPart:
    return write_mixed(tmp_path_factory.mktemp("device") / "encoded", displays=60).part("history")


def made(kind: str, loss: str, threads: Threads, device: torch.device) -> tuple[Network, Optimizer]:
    module = load_kind(kind)
    config = module.config(hidden=(8,), dropout=0.5, embedding_dim=4, **KINDS[kind])
    torch.manual_seed(0)
    model: Any = module.build(config)
    network = model.make(INPUTS, config).to(device)
    return network, Optimizer(network, loss, rate=0.01, row_rate=0.01, rows="adam", l2=0.1, threads=threads)


def batches(part: EncodedPart) -> list[Batch]:
    return [read() for _, read in Reader(part, INPUTS, 20).in_order()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["listwise", "pointwise"])
def test_it_learns_the_same_as_on_a_cpu(part: EncodedPart, kind: str, loss: str) -> None:
    """Loss by loss, dropout included; then it is pruned, if it is of that kind, and scores.

    Scores of a listwise network are compared by what is in the loss: not by the weights of displays, whose gradients
    are rounding alone.
    """

    def learned(device: torch.device) -> list[float]:
        with Threads(1) as threads:
            network, optimizer = made(kind, loss, threads, device)
            losses = [optimizer.step(batch.to(device), 7) for batch in batches(part)]
            network.prune(1.0, optimizer.rows[network.embed].squares)
            with torch.no_grad():
                scores = network.eval()(batches(part)[0].to(device)).float().cpu().numpy()
        return [*losses, *(scores.tolist() if loss == "pointwise" else ())]

    expected = learned(torch.device("cpu"))
    with Device():
        found = learned(DEVICE)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_each_process_has_a_piece_of_every_batch(part: EncodedPart, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, pieces = batches(part)[0], []
    monkeypatch.setattr(processes, "count", lambda: 3)
    monkeypatch.setattr(exchange, "add", lambda values: values)
    monkeypatch.setattr(exchange, "gather_rows", lambda ids, rows: (ids, rows))
    gradients = Optimizer._gradients
    monkeypatch.setattr(
        Optimizer, "_gradients", lambda self, piece, *more: (pieces.append(piece), gradients(self, piece, *more))[1]
    )
    with Device():
        for rank in range(3):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            with Threads(1) as threads:
                made("deepfm", "listwise", threads, DEVICE)[1].step(batch.to(DEVICE), 7)
        codes = torch.cat([piece.impression.codes for piece in pieces]).cpu()
    assert len(pieces) == 3
    assert torch.equal(codes, batch.impression.codes)


def test_pieces_are_looked_up_as_on_a_cpu(part: EncodedPart) -> None:
    table = FieldEmbedding(INPUTS, 3).weight
    for piece in batches(part)[0].pieces(4):
        for side in (piece.display, piece.impression):
            expected = functions.look_up(table, side)
            with Device():
                found = [x.cpu() for x in functions.look_up(table.to(DEVICE), side.to(DEVICE))]
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("asked", "gpus", "local", "expected"),
    [
        ("auto", 0, 1, "cpu"),
        ("cpu", 2, 1, "cpu"),
        ("auto", 1, 0, "cuda:0"),
        ("cuda", 2, 1, "cuda:1"),
        ("cuda", 2, 3, "cuda:1"),
    ],
)
def test_each_process_of_a_machine_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, asked: Any, gpus: int, local: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", str(local))
    assert device_of(RuntimeConfig(device=asked)) == torch.device(expected)


def test_a_gpu_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParameterError, match=r"runtime\.device: cuda, but torch finds no GPU"):
        device_of(RuntimeConfig(device="cuda"))
