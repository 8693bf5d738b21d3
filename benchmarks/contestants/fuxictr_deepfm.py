"""A DeepFM of FuxiCTR's layers, as its model zoo builds it, by FuxiCTR's own loader and loops."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from torch import Tensor


class DeepFM(BaseModel):
    """The network for a benchmark's fields; `logits` of a batch, by the name of the column."""

    def __init__(self, benchmark: Any) -> None:
        settings = benchmark.settings
        torch.set_num_threads(settings["threads"])
        torch.manual_seed(1)
        self.columns = [f"f{i}" for i in range(len(settings["sizes"]))]
        features = FeatureMap("drawn", str(benchmark.folder))
        features.features = OrderedDict(
            (name, {"source": "", "type": "categorical", "vocab_size": size})
            for name, size in zip(self.columns, settings["sizes"], strict=True)
        )
        features.num_fields = len(self.columns)
        features.labels = ["clicked"]
        features.set_column_index()
        folder, never = str(benchmark.folder), 1 << 62  # it trains without evaluations, which would count
        super().__init__(features, verbose=0, model_root=folder, metrics=["AUC"], eval_steps=never)
        size = settings["embedding"]
        self.embedding_layer = FeatureEmbedding(features, size)
        self.fm = FactorizationMachine(features)
        self.mlp = MLP_Block(features.num_fields * size, output_dim=1, hidden_units=settings["hidden"])

    def logits(self, x: dict[str, Tensor]) -> Tensor:
        """(n, 1)"""
        embedded = self.embedding_layer(x)
        logits: Tensor = self.fm(x, embedded) + self.mlp(embedded.flatten(start_dim=1))
        return logits

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y_pred": self.output_activation(self.logits(self.get_inputs(inputs)))}

    def load_weights(self, checkpoint: str) -> None:
        """Called when it has been trained: without evaluations no weights are better than the last."""


def run(benchmark: Any) -> Any:
    settings = benchmark.settings
    model = DeepFM(benchmark)
    model.compile("adam", "binary_crossentropy", lr=0.001)
    loaders = {}
    for part, stage in (("history", "train"), ("target", "test")):
        path = str(benchmark.folder / f"fuxictr_{part}.npz")
        columns = dict(zip(model.columns, benchmark.codes(part).T, strict=True))
        np.savez(path, clicked=benchmark.clicked(part), **columns)
        found = RankDataLoader(
            model.feature_map, stage, batch_size=settings["batch"], shuffle=True, **{f"{stage}_data": path}
        )
        loaders[part] = found[0] if stage == "train" else found
    benchmark.timed("training", lambda: model.fit(loaders["history"], epochs=settings["epochs"]))
    clicked = np.clip(benchmark.timed("inference", lambda: model.predict(loaders["target"])), 1e-7, 1 - 1e-7)
    return np.log(clicked) - np.log1p(-clicked)
