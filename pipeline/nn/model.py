"""A network as a model: fit, predict, save and load around the one training loop."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core import stopping
from pipeline.core.runtime import RuntimeConfig
from pipeline.nn import (
    activations,
    batches,
    dropout,
    exchange,
    functions,
    gathering,
    kernels,
    layers,
    losses,
    network,
    norms,
    passes,
    products,
    pruning,
    reading,
    rows,
    sides,
    steps,
    terms,
    towers,
    training,
)
from pipeline.nn.batches import Batch, Inputs
from pipeline.nn.dropout import bounded
from pipeline.nn.network import Network
from pipeline.nn.training import NetworkTrainer, TrainingConfig, device_of, predict
from pipeline.schemas.encoded import Encoded, EncodedPart, Field
from pipeline.schemas.fitting import FitOptions, Fitted

#: What decides the outcome of a training, beside the module of the network itself.
_MODULES = (
    activations,
    batches,
    dropout,
    exchange,
    functions,
    gathering,
    kernels,
    layers,
    losses,
    network,
    norms,
    passes,
    products,
    pruning,
    reading,
    rows,
    sides,
    steps,
    stopping,
    terms,
    towers,
    training,
)


class NetworkModel:
    """Fits the network that `make(inputs, config)` makes (see models.base.Model)."""

    def __init__(self, make: Callable[[Inputs, Any], Network], config: TrainingConfig) -> None:
        self.make, self.config = make, config
        self.runtime = RuntimeConfig()
        self.network: Network | None = None
        self.score: Callable[[Batch], Tensor] | None = None  # what `scorer` made of the network
        self.fields: list[Field] = []
        self.hidden: frozenset[str] = frozenset()

    def fit(self, encoded: Encoded, options: FitOptions) -> Fitted:
        torch.manual_seed(bounded(self.config.seed))
        self.runtime, self.fields = (
            options.runtime,
            encoded.select(self.config.groups, self.config.fields, self.config.scopes),
        )
        self.hidden = encoded.hidden
        inputs = Inputs(self.fields, self.hidden)
        self.network = self.make(inputs, self.config)
        checkpoint = options.checkpoint
        if checkpoint is not None:
            checkpoint = checkpoint / self._fingerprint(encoded, options.length)
        trainer = NetworkTrainer(self.network, inputs, self.config, options.runtime, encoded.part("history"))
        target = encoded.part("target") if options.length is None else None
        progress = trainer.fit(target, options.length, checkpoint, options.report)
        self.score = self.scorer(self.network)
        length = progress.best_length if options.length is None else options.length
        return Fitted(length=length, curve=progress.curve)

    def predict(self, part: EncodedPart) -> NDArray[np.float32]:
        if self.score is None:
            raise ValueError("fit or load the model before predicting")
        device, cores = device_of(self.runtime), self.runtime.cores
        return predict(self.score, Inputs(self.fields), part, self.config, device, cores)

    def scorer(self, network: Network) -> Callable[[Batch], Tensor]:
        """What gives the logits of a batch in prediction: the network itself."""
        return network

    def save(self, folder: Path) -> None:
        if self.network is None:
            raise ValueError("fit the model before saving it")
        state = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        fields = [{name: getattr(f, name) for name in Field.__dataclass_fields__} for f in self.fields]
        torch.save({"fields": fields, "hidden": sorted(self.hidden), "network": state}, folder / "network.pt")

    def load(self, folder: Path) -> None:
        contents = torch.load(folder / "network.pt", map_location="cpu", weights_only=True)
        self.fields = [Field(**values) for values in contents["fields"]]
        self.hidden = frozenset(contents["hidden"])
        self.network = self.make(Inputs(self.fields, self.hidden), self.config)
        self.network.load_state_dict(contents["network"])
        self.network.to(device_of(self.runtime))
        self.score = self.scorer(self.network)

    def _fingerprint(self, encoded: Encoded, length: float | None) -> str:
        """Changes with the data, the config and the code, so that a run never goes on from what no longer fits."""
        text = [repr((self.config, length, encoded.digest, [f.name for f in self.fields]))]
        own = sys.modules[self.make.__module__]
        text += [inspect.getsource(module) for module in (own, *_MODULES)]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]
