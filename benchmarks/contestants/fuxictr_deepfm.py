"""A DeepFM of FuxiCTR's layers, as its model zoo builds it, in a plain loop over slices of a shuffled tensor.

Its own loader, which gathers a batch row by row, would cost it more than half of its speed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
from torch import Tensor, nn


class DeepFM(nn.Module):
    def __init__(self, features: FeatureMap, size: int, hidden: list[int]) -> None:
        super().__init__()
        self.embedding_layer = FeatureEmbedding(features, size)
        self.fm = FactorizationMachine(features)
        self.mlp = MLP_Block(features.num_fields * size, output_dim=1, hidden_units=hidden)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        embedded = self.embedding_layer(x)
        return (self.fm(x, embedded) + self.mlp(embedded.flatten(start_dim=1))).squeeze(1)


def run(benchmark: Any) -> Any:
    settings = benchmark.settings
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(1)
    names = [f"f{i}" for i in range(len(settings["sizes"]))]
    features = FeatureMap("drawn", str(benchmark.folder))
    features.features = OrderedDict(
        (name, {"source": "", "type": "categorical", "vocab_size": size})
        for name, size in zip(names, settings["sizes"], strict=True)
    )
    features.num_fields = len(names)
    model = DeepFM(features, settings["embedding"], settings["hidden"])
    optimizer, criterion, batch = torch.optim.Adam(model.parameters()), nn.BCEWithLogitsLoss(), settings["batch"]
    inputs = {part: torch.from_numpy(benchmark.codes(part)).long() for part in ("history", "target")}
    clicked = torch.from_numpy(benchmark.clicked("history").astype(np.float32))

    def columns(rows: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, rows.unbind(1), strict=True))

    def train() -> None:
        model.train()
        for _ in range(settings["epochs"]):
            order = torch.randperm(len(clicked))
            for chosen in order.split(batch):
                optimizer.zero_grad()
                criterion(model(columns(inputs["history"][chosen])), clicked[chosen]).backward()
                optimizer.step()

    def predict() -> Tensor:
        model.eval()
        with torch.no_grad():
            return torch.cat([model(columns(rows)) for rows in inputs["target"].split(batch)])

    benchmark.timed("training", train)
    return benchmark.timed("inference", predict).numpy()
