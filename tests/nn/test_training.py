"""The training loop: early stopping, lengths, and checkpoints from which a killed run ends like an undisturbed one."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.runtime import RuntimeConfig
from pipeline.metrics import DivergedError, Quality, quality
from pipeline.models.base import load_kind
from pipeline.models.deepfm import Config, DeepFM, build
from pipeline.nn import functions, losses, rows, training
from pipeline.nn.batches import Inputs
from pipeline.nn.network import Network
from pipeline.nn.reading import Reader
from pipeline.nn.training import NetworkTrainer, device_of, predict
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions, Fitted
from pipeline.schemas.predictions import labels_of
from pipeline.training import train
from tests.synthetic import MIXED, Displays, mixed, write_encoded, write_mixed

REPOSITORY = Path(__file__).parents[2]
#: 300 displays are 10 batches; two evaluations an epoch. Dropout draws random numbers at every step.
CONFIG = Config(
    batch_displays=32,
    epochs=3,
    evaluations=2,
    patience=6,
    hidden=(8,),
    dropout=0.5,
    embedding_learning_rate=0.1,
    checkpoint_minutes=0.0,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return write_mixed(tmp_path_factory.mktemp("training") / "encoded", displays=300, seed=4)


@pytest.fixture
def single(runtime: RuntimeConfig) -> RuntimeConfig:
    return replace(runtime, threads=1)


def fit(world: Encoded, runtime: RuntimeConfig, config: Config = CONFIG, **options: Any) -> tuple[Any, Fitted]:
    model = build(config)
    return model, model.fit(world, FitOptions(runtime=runtime, **options))


# --- killed runs --------------------------------------------------------------------------------------------------

KILLED_RUN = """
import os, signal, sys, json
from dataclasses import fields, replace
from pathlib import Path
from pipeline.core.runtime import RuntimeConfig
from pipeline.nn import training
from pipeline.models.base import load_kind
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from tests.nn.test_training import CONFIG

folder, checkpoint = Path(sys.argv[1]), Path(sys.argv[2])
length, kills = json.loads(sys.argv[3]), json.loads(sys.argv[4])
steps = 0
step = training.NetworkTrainer._step
def counted(self, batch):
    global steps
    steps += 1
    if steps == kills:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, batch)
training.NetworkTrainer._step = counted
load_kind("deepfm").build(CONFIG).fit(
    Encoded(folder), FitOptions(runtime=RuntimeConfig(threads=1, device="cpu"), length=length, checkpoint=checkpoint)
)
"""


def run_and_kill(world: Encoded, checkpoint: Path, length: float | None, step: int) -> None:
    """In a process of its own, which ends when it is about to take its `step`-th step."""
    arguments = [str(world.folder), str(checkpoint), json.dumps(length), json.dumps(step)]
    command, environment = [sys.executable, "-c", KILLED_RUN, *arguments], {**os.environ, "PYTHONPATH": "."}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("length", "kills"), [(None, [14, 9]), (1.7, [7])], ids=["early stopping", "given length"])
def test_a_killed_run_ends_as_an_undisturbed_one(
    world: Encoded, single: RuntimeConfig, tmp_path: Path, length: float | None, kills: list[int]
) -> None:
    """Bit by bit. The kills fall into the second epoch, between two evaluations, and soon after going on."""
    undisturbed, fitted = fit(world, single, length=length)
    for step in kills:
        run_and_kill(world, tmp_path / "checkpoint", length, step)
    shutil.copytree(tmp_path / "checkpoint", tmp_path / "copy")
    steps = steps_of(world, single, CONFIG, tmp_path / "copy", length=length)
    resumed, again = fit(world, single, length=length, checkpoint=tmp_path / "checkpoint")
    done = sum(step - 1 for step in kills)
    assert steps == (30 if length is None else 17) - done
    assert again == fitted
    for name, tensor in undisturbed.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], tensor), name
    target = world.part("target")
    np.testing.assert_array_equal(resumed.predict(target), undisturbed.predict(target))


class StoppedError(Exception):
    pass


def interrupted(world: Encoded, runtime: RuntimeConfig, config: Config, checkpoint: Path, after: int) -> None:
    """A fit that ends by an exception after some steps and leaves its checkpoint."""
    steps = 0
    step = NetworkTrainer._step

    def counted(self: NetworkTrainer, batch: Any) -> None:
        nonlocal steps
        steps += 1
        if steps > after:
            raise StoppedError
        step(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkTrainer, "_step", counted)
        with pytest.raises(StoppedError):
            fit(world, runtime, config, checkpoint=checkpoint)
    assert list(checkpoint.rglob("training.pt"))


def steps_of(world: Encoded, runtime: RuntimeConfig, config: Config, checkpoint: Path, **options: Any) -> int:
    """How many steps a fit takes that may find a checkpoint."""
    counts = []
    with pytest.MonkeyPatch.context() as patch:
        step = NetworkTrainer._step
        patch.setattr(NetworkTrainer, "_step", lambda self, batch: (counts.append(1), step(self, batch)))
        fit(world, runtime, config, checkpoint=checkpoint, **options)
    return len(counts)


@pytest.mark.parametrize("after", range(1, 30, 4))
def test_a_checkpoint_at_any_step(world: Encoded, single: RuntimeConfig, tmp_path: Path, after: int) -> None:
    model, fitted = fit(world, single)
    interrupted(world, single, CONFIG, tmp_path, after)
    resumed, again = fit(world, single, checkpoint=tmp_path)
    assert again == fitted
    np.testing.assert_array_equal(resumed.predict(world.part("target")), model.predict(world.part("target")))


def test_a_checkpoint_of_other_config_data_length_or_code_is_ignored(
    world: Encoded, single: RuntimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(world, single, CONFIG, tmp_path, 25)
    left = len(list(tmp_path.rglob("training.pt")))
    assert left == 1
    assert steps_of(world, single, replace(CONFIG, dropout=0.4), tmp_path) == 30
    assert steps_of(world, single, CONFIG, tmp_path, length=3.0) == 30
    other = mixed(np.random.default_rng(8), 300)
    changed = write_encoded(tmp_path / "changed", MIXED, other, other, digest="changed")
    assert steps_of(changed, single, CONFIG, tmp_path) == 30
    with monkeypatch.context() as patch:
        getsource = inspect.getsource
        edited = {losses: "a better loss"}
        patch.setattr("pipeline.nn.model.inspect.getsource", lambda module: edited.get(module) or getsource(module))
        assert steps_of(world, single, CONFIG, tmp_path) == 30
    assert steps_of(world, single, CONFIG, tmp_path) == 5


def test_checkpoints_are_as_rare_as_asked(world: Encoded, single: RuntimeConfig, tmp_path: Path) -> None:
    saved: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkTrainer, "_save", lambda self, checkpoint: saved.append(self.progress.step))
        fit(world, single, replace(CONFIG, checkpoint_minutes=60.0), checkpoint=tmp_path)
        assert saved == [5, 10] * 3  # at evaluations alone
        saved.clear()
        fit(world, single, CONFIG)
        assert not saved


def test_train_removes_the_checkpoint_at_the_end(world: Encoded, single: RuntimeConfig, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    interrupted(world, single, CONFIG, checkpoint, 12)
    options = FitOptions(runtime=single, checkpoint=checkpoint)
    score = train(load_kind("deepfm"), CONFIG, world, options, tmp_path / "model", tmp_path / "scores.parquet")
    assert not checkpoint.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "scores.parquet"]
    undisturbed, fitted = fit(world, single)
    np.testing.assert_array_equal(score, undisturbed.predict(world.part("target")))
    assert json.loads((tmp_path / "model" / "fit.json").read_text()) == {"length": fitted.length, "curve": fitted.curve}


def test_a_failed_fit_leaves_no_model(world: Encoded, single: RuntimeConfig, tmp_path: Path) -> None:
    kind, config = load_kind("deepfm"), replace(CONFIG, embedding_learning_rate=1e30)
    with pytest.raises(DivergedError, match="diverged"):
        train(kind, config, world, FitOptions(runtime=single), tmp_path / "model", tmp_path / "scores")
    with pytest.raises(DivergedError, match="diverged"):
        train(kind, config, world, FitOptions(runtime=single, length=2.0), tmp_path / "model", tmp_path / "scores")
    assert not list(tmp_path.iterdir())


def test_early_stopping_needs_labels(world: Encoded, single: RuntimeConfig, tmp_path: Path) -> None:
    history = mixed(np.random.default_rng(2), 40)
    blind = write_encoded(tmp_path / "encoded", MIXED, history, history.unlabelled())
    kind, options = load_kind("lr"), FitOptions(runtime=single)
    with pytest.raises(InputError, match="no labels"):
        train(kind, kind.config(), blind, options, tmp_path / "model", tmp_path / "scores")


# --- early stopping and lengths -----------------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[dict[str, torch.Tensor]]:
    """Let the evaluations find these scores; collects the weights that each of them saw."""
    seen: list[dict[str, torch.Tensor]] = []
    original = training.predict

    def spy(network: Any, *arguments: Any) -> Any:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return original(network, *arguments)

    monkeypatch.setattr(training, "predict", spy)
    monkeypatch.setattr(training, "quality", lambda score, labels: Quality(scores[len(seen) - 1], 0.0))
    return seen


@pytest.mark.parametrize(
    ("patience", "scores", "evaluations", "best"),
    [
        (1, [0.5, 0.6, 0.6, 0.9], 3, 1),  # no gain is no gain
        (2, [0.5, 0.6, 0.4, 0.7, 0.6, 0.6], 6, 3),
        (2, [0.6, 0.5, 0.4, 0.9], 3, 0),
        (9, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 6, 5),
    ],
)
def test_early_stopping_keeps_the_best(
    world: Encoded,
    single: RuntimeConfig,
    monkeypatch: pytest.MonkeyPatch,
    patience: int,
    scores: list[float],
    evaluations: int,
    best: int,
) -> None:
    seen = scripted(monkeypatch, scores)
    model, fitted = fit(world, single, replace(CONFIG, patience=patience))
    assert [point["map12"] for point in fitted.curve] == scores[:evaluations]
    assert [point["step"] for point in fitted.curve] == [0.5 * (i + 1) for i in range(evaluations)]
    assert fitted.length == 0.5 * (best + 1)
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, seen[best][name])
    assert not torch.equal(seen[best]["embed.weight"], seen[best - 1]["embed.weight"])


def test_the_best_before_a_kill_is_kept(
    world: Encoded, single: RuntimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing after going on is as good as what the checkpoint remembers."""
    seen = scripted(monkeypatch, [0.9, 0.5, 0.4, 0.3, 0.2, 0.1])
    interrupted(world, single, CONFIG, tmp_path, 12)
    assert len(seen) == 2
    model, fitted = fit(world, single, checkpoint=tmp_path)
    assert len(seen) == 6
    assert fitted.length == 0.5
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, seen[0][name])


def test_the_curve_tells_loss_and_score(world: Encoded, single: RuntimeConfig) -> None:
    """The loss is the mean since the last evaluation; it starts near that of chance and falls."""
    labels = labels_of(world.part("target"))
    model, fitted = fit(world, single, replace(CONFIG, epochs=6))
    best = max(fitted.curve, key=lambda point: point["map12"] - point["target_loss"])
    assert quality(model.predict(world.part("target")), labels) == Quality(best["map12"], best["target_loss"])
    assert fitted.length == best["step"]
    assert fitted.map12 == best["map12"]
    lengths = np.diff(world.part("history").offsets)
    assert fitted.curve[0]["loss"] == pytest.approx(np.log(lengths).mean(), rel=0.15)
    assert fitted.curve[-1]["loss"] < 0.6 * fitted.curve[0]["loss"]


@pytest.mark.parametrize(("length", "steps"), [(0.01, 1), (0.5, 5), (1.0, 10), (1.26, 13), (2.5, 25)])
def test_a_fractional_length(world: Encoded, single: RuntimeConfig, tmp_path: Path, length: float, steps: int) -> None:
    assert steps_of(world, single, CONFIG, tmp_path, length=length) == steps
    _, fitted = fit(world, single, length=length)
    assert fitted == Fitted(length=length, curve=[])


def test_evaluations_are_spread_over_an_epoch(world: Encoded, single: RuntimeConfig) -> None:
    for evaluations, expected in ((1, [10]), (3, [4, 7, 10]), (10, list(range(1, 11))), (50, list(range(1, 11)))):
        config = replace(CONFIG, epochs=1, evaluations=evaluations, patience=99)
        _, fitted = fit(world, single, config)
        assert [round(point["step"] * 10) for point in fitted.curve] == expected


def test_history_without_displays(single: RuntimeConfig, tmp_path: Path) -> None:
    displays = mixed(np.random.default_rng(1), 10)
    empty = Displays(displays.lengths[:0], {"page": np.empty(0, np.int32)}, np.empty(0, np.uint8))
    pages = [f for f in MIXED if f.name == "page"]
    world = write_encoded(tmp_path / "encoded", pages, empty, displays)
    with pytest.raises(InputError, match="expected displays to learn from, found none"):
        fit(world, single, length=1.0)


# --- what must not change a result --------------------------------------------------------------------------------


def test_threads_do_not_change_a_bit(runtime: RuntimeConfig, tmp_path: Path) -> None:
    """Batches are large enough to be cut into pieces for several threads; dropout, bags and shared fields included."""
    world = write_mixed(tmp_path / "encoded", displays=3000, seed=6)
    config = replace(CONFIG, batch_displays=3000, embedding_dim=16, hidden=(64, 32), epochs=2, evaluations=1)
    part = world.part("history")
    _, read = next(Reader(part, Inputs(list(world.fields.values())), 3000).in_order())
    assert len(read().pieces()) > 3
    states = [fit(world, replace(runtime, threads=n), config)[0].network.state_dict() for n in (1, 2, 3)]
    for name, tensor in states[0].items():
        assert all(torch.equal(tensor, other[name]) for other in states[1:]), name


@pytest.mark.parametrize("kind", ["deepfm", "normdnn"])
@pytest.mark.parametrize("loss", ["listwise", "pointwise"])
def test_every_way_learns_the_same(
    world: Encoded, single: RuntimeConfig, monkeypatch: pytest.MonkeyPatch, kind: str, loss: str
) -> None:
    """A whole network in compiled loops, its terms by autograd, and torch's operations, as on other devices."""
    module = load_kind(kind)
    own = {f.name: getattr(CONFIG, f.name) for f in fields(module.config) if hasattr(CONFIG, f.name)}
    model = module.build(module.config(**own | {"l2": 0.1, "loss": loss, "batch_displays": 200}))

    def learned() -> NDArray[np.float32]:
        model.fit(world, FitOptions(runtime=single, length=3.0))
        return model.predict(world.part("target"))

    at_once = learned()
    assert model.network.compiled()
    monkeypatch.setattr(Network, "compiled", lambda network: None)
    np.testing.assert_allclose(learned(), at_once, rtol=1e-3, atol=1e-3)
    for other in (functions, rows):
        monkeypatch.setattr(other, "has_kernels", lambda tensor: False)
    np.testing.assert_allclose(learned(), at_once, rtol=1e-3, atol=1e-3)


def test_torch_dropout_is_refused(world: Encoded, single: RuntimeConfig) -> None:
    inputs = Inputs(list(world.fields.values()))
    network = DeepFM(inputs, CONFIG)
    network.extra = torch.nn.Dropout(0.1)
    with pytest.raises(TypeError, match=r"use nn\.dropout\.Dropout"):
        NetworkTrainer(network, inputs, CONFIG, single, world.part("history")).fit(None, 1.0, None, lambda *said: None)


def test_earlier_fits_do_not_matter(world: Encoded, single: RuntimeConfig) -> None:
    target = world.part("target")
    first = fit(world, single)[0].predict(target)
    fit(world, single, replace(CONFIG, seed=3))
    np.testing.assert_array_equal(fit(world, single)[0].predict(target), first)


def test_predictions_do_not_depend_on_batches(
    world: Encoded, single: RuntimeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, part, device = Inputs(list(world.fields.values())), world.part("history"), device_of(single)
    network = DeepFM(inputs, CONFIG)
    configs = [replace(CONFIG, batch_displays=size) for size in (1, 5000)]
    monkeypatch.setattr(training, "max", lambda *values: values[-1], raising=False)
    found = [predict(network, inputs, part, config, device, 1) for config in configs]
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize("loss", ["listwise", "pointwise"])
def test_scores_are_logits_whatever_the_loss(world: Encoded, single: RuntimeConfig, loss: Any) -> None:
    """Of a listwise network the chances of a display's ads sum to 1; of a pointwise one only on average."""
    config = replace(CONFIG, loss=loss, epochs=6, dropout=0.0)  # which would add noise to the mean
    score = fit(world, single, config)[0].predict(world.part("history")).astype(float)
    part = world.part("history")
    sums = np.add.reduceat(1 / (1 + np.exp(-score)), part.offsets[:-1])
    assert sums.mean() == pytest.approx(1, abs=0.15)
    assert bool(np.allclose(sums, 1, atol=1e-5)) == (loss == "listwise")


def test_l2_shrinks(world: Encoded, single: RuntimeConfig) -> None:
    sizes = []
    for l2 in (0.0, 1e-2, 1.0):
        model, _ = fit(world, single, replace(CONFIG, l2=l2), length=3.0)
        sizes.append(float(model.network.embed.weight.detach().square().sum()))
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("loss", ["listwise", "pointwise"])
def test_rare_ids_move_alike_whatever_the_batch(world: Encoded, single: RuntimeConfig, loss: Any) -> None:
    """While AdaGrad's sums are mostly what they begin at, an epoch moves the table by the sum of all gradients."""

    def table(rate: float, displays: int) -> Any:
        config = replace(
            CONFIG, loss=loss, dropout=0.0, l2=0.0, learning_rate=1e-9, batch_displays=displays,
            embedding_learning_rate=rate, initial_accumulator=1e8,
        )  # fmt: skip
        return fit(world, single, config, length=1.0)[0].network.embed.weight.detach()

    start = table(1e-9, 30)
    moved = [table(1.0, displays) - start for displays in (10, 30)]
    assert moved[0].abs().max() > 1e-5
    assert (moved[0] - moved[1]).abs().max() < 0.05 * moved[0].abs().max()
