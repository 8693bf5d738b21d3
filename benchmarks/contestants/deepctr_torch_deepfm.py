"""DeepCTR-Torch's DeepFM by its own fit and predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM


def run(benchmark: Any, network: Any = DeepFM, **parameters: Any) -> Any:
    """network: a model of DeepCTR-Torch. parameters: of it, beside what all networks of the benchmark share."""
    settings = benchmark.settings
    torch.set_num_threads(settings["threads"])
    names = [f"f{i}" for i in range(len(settings["sizes"]))]
    columns = [
        SparseFeat(name, vocabulary_size=size, embedding_dim=settings["embedding"])
        for name, size in zip(names, settings["sizes"], strict=True)
    ]
    model = network(
        columns,
        columns,
        dnn_hidden_units=tuple(settings["hidden"]),
        l2_reg_linear=0,
        l2_reg_embedding=0,
        seed=1,
        **parameters,
    )
    model.compile("adam", "binary_crossentropy")
    inputs = {part: dict(zip(names, benchmark.codes(part).T.copy(), strict=True)) for part in ("history", "target")}
    clicked, batch = benchmark.clicked("history").astype(np.float32), settings["batch"]
    fit = {"batch_size": batch, "epochs": settings["epochs"], "verbose": 0}
    benchmark.timed("training", lambda: model.fit(inputs["history"], clicked, **fit))
    p = benchmark.timed("inference", lambda: model.predict(inputs["target"], batch)).ravel()
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))
