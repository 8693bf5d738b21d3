"""The one training loop of all factorization models: early stopping, checkpoints that survive a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import check
from pipeline.core.errors import InputError
from pipeline.core.files import atomic_path, read_json, take_back, write_json
from pipeline.core.progress import bar, log
from pipeline.core.runtime import RuntimeConfig
from pipeline.core.stopping import Progress
from pipeline.factorization.displays import Displays, Inputs, Reader
from pipeline.metrics import quality
from pipeline.schemas.encoded import EncodedPart
from pipeline.schemas.features import Scope
from pipeline.schemas.predictions import labels_of, within_display_logits

Arrays = dict[str, NDArray[Any]]

#: Where the hours that threads save begin to count more than that every run is the same.
HOGWILD_DISPLAYS = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorizationConfig:
    """How a factorization model is trained; the config of each model adds what it is made of.

    groups, fields, scopes: what it reads (schemas.encoded.Encoded.select). Of a number its bucketised twin is read,
    but the number itself if `fields` names it.
    hash_bits: fold all ids into a table of 2 ** hash_bits rows; None: a row for each id.
    loss: listwise is the likelihood of the data (one click a display); pointwise takes each impression by itself.
    hogwild: all threads change the table at once and without locks (Niu et al. 2011): faster on large data, where two
    threads seldom meet, but no two runs are the same. Else one thread learns, while another reads ahead. None: from
    HOGWILD_DISPLAYS displays on.
    epochs: at most; evaluations: how often an epoch is interrupted to measure; patience: how many evaluations
    in a row may bring no gain before training stops.
    """

    groups: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ()
    hash_bits: int | None = None
    loss: Literal["listwise", "pointwise"] = "listwise"
    hogwild: bool | None = None
    epochs: int = 5
    evaluations: int = 1
    patience: int = 1
    checkpoint_minutes: float = 10.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "evaluations", "patience"):
            check(getattr(self, name) >= 1, f"{name}: must be 1 or more, found {getattr(self, name)}")
        for name in ("checkpoint_minutes", "seed"):
            check(getattr(self, name) >= 0, f"{name}: must be 0 or more, found {getattr(self, name)}")
        check(
            self.hash_bits is None or 1 <= self.hash_bits <= 30,
            f"hash_bits: must be from 1 to 30, or null, found {self.hash_bits}",
        )


class Learner(Protocol):
    """What the loop trains."""

    def reach(self, epochs: float) -> None:
        """Before each step: how many epochs, and what part of one, have been learned from."""
        ...

    def learn(self, displays: Displays, order: NDArray[np.int64]) -> float:
        """Take a step for each of some displays, in their order; returns the sum of their losses in nats."""
        ...

    def score(self, displays: Displays, which: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Write the scores of the rows of some displays into `out` (N,); several threads may, of displays of their
        own."""
        ...

    def state(self) -> Arrays:
        """All arrays that `learn` changes, themselves."""
        ...

    def weights(self) -> Arrays:
        """What `score` needs, without what only learning needs: copies."""
        ...

    def keep(self, weights: Arrays) -> None:
        """Score by these from now on; learning is over."""
        ...


class Trainer:
    """Fits one learner, which is left with the weights of the best evaluation, or of the last step without any."""

    def __init__(
        self,
        learner: Learner,
        inputs: Inputs,
        config: FactorizationConfig,
        runtime: RuntimeConfig,
        history: EncodedPart,
        left_out: NDArray[np.int8] | None = None,
    ) -> None:
        self.learner, self.inputs, self.config, self.cores = learner, inputs, config, runtime.cores
        hogwild = history.displays >= HOGWILD_DISPLAYS if config.hogwild is None else config.hogwild
        fits = 1 if left_out is None else int(left_out.max()) + 1  # see Folds: these share the cores already
        self.threads = max(1, runtime.cores // fits) if hogwild else 1
        self.reader = Reader(history, inputs, left_out)
        self.steps = self.reader.steps_an_epoch()
        if not self.steps:
            raise InputError(f"{history.folder}: expected displays to learn from, found none")
        self.progress = Progress(steps=self.steps)
        self._best: Arrays | None = None

    def fit(
        self,
        target: EncodedPart | None,
        length: float | None,
        checkpoint: Path | None,
        report: Callable[[int, float], None],
    ) -> Progress:
        """Train for `length` epochs, or until `target` is scored no better; go on from `checkpoint` if it exists."""
        if checkpoint is not None:
            self._restore(checkpoint)
        total = self.config.epochs * self.steps if length is None else max(1, round(length * self.steps))
        state, saved = self.progress, time.monotonic()

        def epoch(number: int, skip: int) -> Iterator[tuple[Displays, NDArray[np.int64]]]:
            return self.reader.shuffled((self.config.seed, number), skip)

        with bar(total, "training", "step", initial=state.taken) as shown, ThreadPoolExecutor(self.threads) as threads:
            for displays, order in state.each(total, epoch):
                self.learner.reach(state.length)
                self._step(displays, order, threads)
                shown.update(1)
                evaluate = target is not None and length is None and state.is_time(self.config.evaluations)
                if evaluate:
                    assert target is not None
                    self._evaluate(target, report)
                    shown.set_postfix(map12=f"{state.curve[-1]['map12']:.4f}")
                late = time.monotonic() - saved > 60 * self.config.checkpoint_minutes
                if checkpoint is not None and (evaluate or late):
                    self._save(checkpoint)
                    saved = time.monotonic()
        self.learner.keep(self.learner.weights() if self._best is None else self._best)
        return state

    def _step(self, displays: Displays, order: NDArray[np.int64], threads: ThreadPoolExecutor) -> None:
        shares = [order[i :: self.threads] for i in range(self.threads)]
        loss = sum(threads.map(lambda share: self.learner.learn(displays, share), shares))
        self.progress.stepped(loss, len(order))

    def _evaluate(self, target: EncodedPart, report: Callable[[int, float], None]) -> None:
        state = self.progress
        displays = target.measured
        score = predict(self.learner, self.inputs, target, self.config, self.cores, displays)
        found = quality(score, labels_of(target, displays))
        if state.evaluated(found.worth, self.config.patience, **found.shown):
            self._best = self.learner.weights()
        log.info("epoch %.2f: loss %.5f, MAP@12 %.5f", state.length, state.curve[-1]["loss"], found.map12)
        report(len(state.curve), found.map12)

    def _save(self, checkpoint: Path) -> None:
        with atomic_path(checkpoint) as partial:
            partial.mkdir()
            write_json(partial / "progress.json", asdict(self.progress))
            for kind, arrays in (("state", self.learner.state()), ("best", self._best or {})):
                save_arrays(partial / kind, arrays)

    def _restore(self, checkpoint: Path) -> None:
        take_back(checkpoint)
        if not (checkpoint / "progress.json").exists():
            return
        self.progress = Progress(**read_json(checkpoint / "progress.json"))
        for name, array in self.learner.state().items():
            array[...] = np.load(checkpoint / "state" / f"{name}.npy", mmap_mode="r")
        self._best = load_arrays(checkpoint / "best") or None
        log.info("going on from a checkpoint at epoch %d, step %d", self.progress.epoch, self.progress.step)


def predict(
    learner: Learner,
    inputs: Inputs,
    part: EncodedPart,
    config: FactorizationConfig,
    threads: int,
    displays: Sequence[slice] | None = None,
    left_out: NDArray[np.int8] | None = None,
) -> NDArray[np.float32]:
    """The scores (N,) of all rows, or of some ranges of displays, as logits of a click: a listwise model's are turned
    into them within each display."""
    offsets = part.offsets_of(part.whole if displays is None else displays)
    score = np.empty(offsets[-1], dtype=np.float32)
    with bar(len(score), "predicting") as shown, ThreadPoolExecutor(threads) as pool:
        for rows, read in Reader(part, inputs, left_out).in_order(displays):
            shares = np.array_split(np.arange(len(read.offsets) - 1), threads)
            list(pool.map(partial(learner.score, read, out=score[rows]), shares))
            shown.update(rows.stop - rows.start)
    return within_display_logits(score, offsets) if config.loss == "listwise" else score


def save_arrays(folder: Path, arrays: Arrays) -> None:
    """Write each to NAME.npy in a new folder."""
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load_arrays(folder: Path) -> Arrays:
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}
