"""A factorization model as the pipeline wants models: fit, predict, save and load around the one training loop."""

from __future__ import annotations

import hashlib
import inspect
import sys
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core import stopping
from pipeline.core.compiled import digest
from pipeline.core.files import read_json, write_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.factorization.displays import Cross, Inputs, readable
from pipeline.factorization.folds import Folds
from pipeline.factorization.training import (
    FactorizationConfig,
    Learner,
    Trainer,
    load_arrays,
    predict,
    save_arrays,
)
from pipeline.schemas.encoded import Encoded, EncodedPart, Field
from pipeline.schemas.fitting import FitOptions, Fitted

Crosses = list[Cross]


class FactorizationModel:
    """Fits the learner that `make(inputs, config, history)` makes (see models.base.Model).

    crosses: those that the config asks for; cross_bits: into how many each is hashed. linear: groups and fields that
    it does not pair.
    """

    def __init__(
        self,
        make: Callable[[Inputs, Any, EncodedPart | None], Learner],
        config: FactorizationConfig,
        crosses: Callable[[Encoded], Crosses] = lambda encoded: [],
        cross_bits: int = 0,
        linear: tuple[str, ...] = (),
    ) -> None:
        self.make, self.config, self.crosses, self.cross_bits, self.linear = make, config, crosses, cross_bits, linear
        self.learner: Learner | None = None
        self.runtime = RuntimeConfig()
        self.left_out: NDArray[np.int8] | None = None
        self.fields: list[Field] = []
        self.crossed: Crosses = []

    def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
        config, history = self.config, encoded.part("history")
        self.fields = readable(encoded, encoded.select(config.groups, config.fields, config.scopes), config.fields)
        self.crossed = self.crosses(encoded)
        inputs = self._inputs()
        self.runtime, self.left_out = options.runtime, options.left_out
        if options.left_out is None:
            self.learner = self.make(inputs, config, history)
        else:
            fits = range(int(options.left_out.max()) + 1)
            self.learner = Folds([self.make(inputs, config, history) for _ in fits], options.runtime.cores)
        checkpoint = options.checkpoint
        if checkpoint is not None:
            checkpoint = checkpoint / self._fingerprint(encoded, options)
        trainer = Trainer(self.learner, inputs, config, options.runtime, history, options.left_out)
        target = encoded.part("target") if options.length is None else None
        progress = trainer.fit(target, options.length, checkpoint, options.report)
        length = progress.best_length if options.length is None else options.length
        return Fitted(length=length, curve=progress.curve)

    def reads(self, encoded: Encoded) -> list[Field]:
        """All fields that it learns from, those of its crosses, too."""
        chosen = encoded.select(self.config.groups, self.config.fields, self.config.scopes)
        return [*chosen, *(field for cross in self.crosses(encoded) for field in (cross.first, cross.second))]

    def predict(self, part: EncodedPart) -> NDArray[np.float32]:
        """After a fit with options.left_out: of history, each display by the fit that has left it out."""
        if self.learner is None:
            raise ValueError("fit or load the model before predicting")
        if self.left_out is not None and len(self.left_out) != part.displays:
            raise ValueError(f"{part.folder}: a model that leaves displays of history out scores history alone")
        return predict(self.learner, self._inputs(), part, self.config, self.runtime.cores, left_out=self.left_out)

    def save(self, folder: Path) -> None:
        if self.learner is None:
            raise ValueError("fit the model before saving it")
        fields = [asdict(field) for field in self.fields]
        crossed = [(asdict(first), asdict(second)) for first, second in self.crossed]
        write_json(folder / "fields.json", {"fields": fields, "crossed": crossed})
        save_arrays(folder / "weights", self.learner.weights())

    def load(self, folder: Path) -> None:
        found = read_json(folder / "fields.json")
        self.fields = [Field(**values) for values in found["fields"]]
        self.crossed = [Cross(Field(**a), Field(**b)) for a, b in found["crossed"]]
        self.learner = self.make(self._inputs(), self.config, None)
        self.learner.keep(load_arrays(folder / "weights"))

    def _inputs(self) -> Inputs:
        return Inputs(self.fields, self.config.hash_bits, self.crossed, self.cross_bits, self.linear)

    def _fingerprint(self, encoded: Encoded, options: FitOptions) -> str:
        """Changes with the data, the config and the code, so that a run never goes on from what no longer fits."""
        left_out = b"" if options.left_out is None else options.left_out.tobytes()
        what = self.config, options.length, encoded.digest, [f.name for f in self.fields], zlib.crc32(left_out)
        own = "\n".join(inspect.getsource(module) for module in (sys.modules[self.make.__module__], stopping))
        return hashlib.sha256(f"{what}\n{digest(Path(__file__).parent)}\n{own}".encode()).hexdigest()[:16]
