"""The DeepFM of FuxiCTR's layers in a plain loop over slices of a shuffled tensor, without its loader and its loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fuxictr_deepfm import DeepFM
from torch import Tensor, nn


def run(benchmark: Any) -> Any:
    model, batch = DeepFM(benchmark), benchmark.settings["batch"]
    optimizer, criterion = torch.optim.Adam(model.parameters()), nn.BCEWithLogitsLoss()
    inputs = {part: torch.from_numpy(benchmark.codes(part)).long() for part in ("history", "target")}
    clicked = torch.from_numpy(benchmark.clicked("history").astype(np.float32))

    def logits(rows: Tensor) -> Tensor:
        return model.logits(dict(zip(model.columns, rows.unbind(1), strict=True))).squeeze(1)

    def train() -> None:
        model.train()
        for _ in range(benchmark.settings["epochs"]):
            order = torch.randperm(len(clicked))
            for chosen in order.split(batch):
                optimizer.zero_grad()
                criterion(logits(inputs["history"][chosen]), clicked[chosen]).backward()
                optimizer.step()

    def predict() -> Tensor:
        model.eval()
        with torch.no_grad():
            return torch.cat([logits(rows) for rows in inputs["target"].split(batch)])

    benchmark.timed("training", train)
    return benchmark.timed("inference", predict).numpy()
