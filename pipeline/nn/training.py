"""The one training loop of all networks: whole displays, early stopping, checkpoints that survive a kill."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core import processes
from pipeline.core.config import check
from pipeline.core.errors import InputError
from pipeline.core.files import atomic_path
from pipeline.core.progress import bar, log
from pipeline.core.runtime import RuntimeConfig
from pipeline.core.stopping import Progress
from pipeline.metrics import quality
from pipeline.nn import exchange
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.network import Network
from pipeline.nn.reading import Reader
from pipeline.nn.rows import Kind
from pipeline.nn.steps import Optimizer
from pipeline.nn.threads import Threads
from pipeline.schemas.encoded import EncodedPart
from pipeline.schemas.features import Scope
from pipeline.schemas.predictions import labels_of, within_display_logits

PRUNINGS = 20
_PREDICTED = 1024  # displays in a batch that is only scored, or more


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How a network is trained; the config of each network adds what it is made of.

    groups, fields: what it reads, whole feature groups and single encoded fields; everything if both are empty.
    scopes: of these only what has one of these scopes (schemas.features); all if empty.
    loss: listwise is the likelihood of the data (one click a display); pointwise takes each impression by itself.
    learning_rate: of the dense weights (Adam); embedding_learning_rate: of the table's rows, changed by
    embedding_optimizer (nn.rows). initial_accumulator: where AdaGrad's sums of squares begin, for the gradient of what
    the loss is a mean of, a display or an impression; 1 in libffm, which makes a step for each.
    l2: of the weights and embeddings that a batch reads, for each time they are read.
    batch_displays: displays in a batch, 5.16 rows each on average.
    epochs, displays: at most so many epochs, and no more of them than so many displays make, though one at least: the
    more there is to learn from, the sooner a network has the ids by heart (Zhang et al. 2022, "Towards understanding
    the overfitting phenomenon of deep click-through rate prediction models").
    evaluations: how often an epoch is interrupted to measure; patience: how many evaluations in a row may bring no gain
    before training stops.
    """

    groups: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ()
    loss: Literal["listwise", "pointwise"] = "listwise"
    learning_rate: float = 1e-3
    embedding_learning_rate: float = 0.01
    embedding_optimizer: Kind = "adagrad"
    initial_accumulator: float = 1.0
    l2: float = 1e-5
    batch_displays: int = 256
    epochs: int = 5
    displays: int = 1_500_000
    evaluations: int = 1
    patience: int = 1
    checkpoint_minutes: float = 10.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_displays", "epochs", "displays", "evaluations", "patience"):
            check(getattr(self, name) >= 1, f"{name}: must be 1 or more, found {getattr(self, name)}")
        for name in ("learning_rate", "embedding_learning_rate"):
            check(getattr(self, name) > 0, f"{name}: must be above 0, found {getattr(self, name)}")
        for name in ("l2", "initial_accumulator", "checkpoint_minutes", "seed"):
            check(getattr(self, name) >= 0, f"{name}: must be 0 or more, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepConfig(TrainingConfig):
    """Of networks with embeddings and an MLP. embedding_dim: D. hidden: sizes of the MLP's layers; none: without it.

    dropout: after each of them.
    """

    embedding_dim: int = 8
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        check(self.embedding_dim >= 1, f"embedding_dim: must be 1 or more, found {self.embedding_dim}")
        check(all(size >= 1 for size in self.hidden), f"hidden: sizes must be 1 or more, found {list(self.hidden)}")
        check(0 <= self.dropout < 1, f"dropout: must be from 0 to below 1, found {self.dropout}")


class NetworkTrainer:
    """Fits one network; `network` is left with the weights of the best evaluation, or of the last step without any."""

    def __init__(
        self, network: Network, inputs: Inputs, config: TrainingConfig, runtime: RuntimeConfig, history: EncodedPart
    ) -> None:
        self.network, self.config, self.device, self.cores = network, config, device_of(runtime), runtime.cores
        self.reader = Reader(history, inputs, config.batch_displays)
        self.batches = self.reader.batches_an_epoch()
        if not self.batches:
            raise InputError(f"{history.folder}: expected displays to learn from, found none")
        self.epochs = min(config.epochs, max(1.0, config.displays / history.displays))
        self.inputs = inputs
        of_display = 1 if config.loss == "listwise" else history.rows / history.displays
        self.instances = config.batch_displays * of_display  # in a batch, of what the loss is a mean of
        network.to(self.device)
        self.progress = Progress(steps=self.batches)
        self._best: dict[str, Tensor] | None = None

    def fit(
        self,
        target: EncodedPart | None,
        length: float | None,
        checkpoint: Path | None,
        report: Callable[[int, float], None],
    ) -> Progress:
        """Train for `length` epochs, or until `target` is scored no better; go on from `checkpoint` if it exists."""
        with Threads(self.cores) as threads:
            self.optimizer = Optimizer(
                self.network,
                self.config.loss,
                rate=self.config.learning_rate,
                row_rate=self.config.embedding_learning_rate,
                rows=self.config.embedding_optimizer,
                start=self.config.initial_accumulator / self.instances**2,  # a batch's gradient is a mean
                l2=self.config.l2,
                threads=threads,
            )
            if checkpoint is not None:
                self._restore(checkpoint)
            self._train(target if length is None else None, length, checkpoint, report)
        if self._best is not None:
            self.network.load_state_dict(self._best)
        return self.progress

    def _train(
        self,
        target: EncodedPart | None,
        length: float | None,
        checkpoint: Path | None,
        report: Callable[[int, float], None],
    ) -> None:
        total = max(1, round((self.epochs if length is None else length) * self.batches))
        state, saved = self.progress, time.monotonic()

        def epoch(number: int, skip: int) -> Iterator[Batch]:
            return self.reader.shuffled((self.config.seed, number), skip)

        with bar(total, "training", "batch", initial=state.taken) as shown:
            for batch in state.each(total, epoch):
                self._step(batch.to(self.device))
                shown.update(1)
                evaluate = target is not None and state.is_time(self.config.evaluations)
                if evaluate or state.taken >= total or state.is_time(PRUNINGS):
                    rows = self.optimizer.rows[self.network.embed]
                    evaluate = self.network.prune(state.length / self.epochs, rows.squares) and evaluate
                if evaluate:
                    assert target is not None
                    self._evaluate(target, report)
                    shown.set_postfix(map12=f"{state.curve[-1]['map12']:.4f}")
                late = time.monotonic() - saved > 60 * self.config.checkpoint_minutes
                if checkpoint is not None and (evaluate or late) and not processes.rank():
                    self._save(checkpoint)
                    saved = time.monotonic()

    def _step(self, batch: Batch) -> None:
        state = self.progress
        state.stepped(self.optimizer.step(batch, seed=self.config.seed * 1_000_000_007 + state.taken))

    def _evaluate(self, target: EncodedPart, report: Callable[[int, float], None]) -> None:
        state = self.progress
        displays = target.measured
        score = predict(self.network, self.inputs, target, self.config, self.device, self.cores, displays, True)
        found = quality(score, labels_of(target, displays))
        if state.evaluated(found.worth, self.config.patience, **found.shown):
            self._best = copy.deepcopy(self.network.state_dict())
        log.info("epoch %.2f: loss %.5f, MAP@12 %.5f", state.length, state.curve[-1]["loss"], found.map12)
        report(len(state.curve), found.map12)

    def _save(self, checkpoint: Path) -> None:
        contents = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress,
            "best": self._best,
        }
        with atomic_path(checkpoint / "training.pt") as partial:
            torch.save(contents, partial)

    def _restore(self, checkpoint: Path) -> None:
        path = checkpoint / "training.pt"
        if not path.exists():
            return
        # our own file, in a folder that only this pipeline writes; it holds more than tensors
        contents = torch.load(path, map_location=self.device, weights_only=False)
        self.network.load_state_dict(contents["network"])
        self.optimizer.load_state_dict(contents["optimizer"])
        self.progress, self._best = contents["progress"], contents["best"]
        log.info("going on from a checkpoint at epoch %d, batch %d", self.progress.epoch, self.progress.step)


def device_of(runtime: RuntimeConfig) -> torch.device:
    """Where networks are: each process of a machine takes the next of its GPUs. ParameterError if there is none."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    check(
        gpus > 0 or runtime.device != "cuda",
        "runtime.device: cuda, but torch finds no GPU that it can use; choose cpu or auto, or install torch for CUDA",
    )
    if runtime.device == "cpu" or not gpus:
        return torch.device("cpu")
    return torch.device("cuda", processes.local_rank() % gpus)


def predict(
    network: Callable[[Batch], Tensor],
    inputs: Inputs,
    part: EncodedPart,
    config: TrainingConfig,
    device: torch.device,
    cores: int,
    displays: Sequence[slice] | None = None,
    shared: bool = False,
) -> NDArray[np.float32]:
    """A network's scores (N,) of all rows, or of some ranges of displays, as logits of a click: a listwise network's
    are turned into them within each display.

    network: what gives the logits of a batch; it may say by `batch_displays` how large it likes them.

    shared: all processes of a fit call this; each scores some batches, and all get all scores.
    """
    if isinstance(network, nn.Module):
        network.eval()
    logits = network
    if isinstance(network, Network) and (compiled := network.compiled()):
        logits = partial(compiled.score, network.embed.weight)
    offsets = part.offsets_of(part.whole if displays is None else displays)
    score = np.zeros(offsets[-1], dtype=np.float32)

    def fill(rows: slice, read: Callable[[], Batch]) -> None:
        with torch.inference_mode():  # read and scored by one thread, which finds the batch in its cache
            score[rows] = logits(read().to(device)).float().cpu().numpy()

    with bar(len(score), "predicting") as shown, Threads(cores) as threads:
        size = max(getattr(network, "batch_displays", _PREDICTED), config.batch_displays)
        batches = Reader(part, inputs, size).in_order(displays)
        own = islice(batches, processes.rank(), None, processes.count()) if shared else batches
        for rows, _ in threads.each(fill, own):
            shown.update(rows.stop - rows.start)
    if shared:
        score = exchange.add(torch.from_numpy(score)).numpy()
    return within_display_logits(score, offsets) if config.loss == "listwise" else score
