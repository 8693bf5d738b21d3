"""This project's DeepFM, as the stage `train` runs it: fit and predict, reading from disk included."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.runtime import RuntimeConfig
from pipeline.models.base import load_kind
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions


def run(benchmark: Any, name: str = "deepfm", encoded: str = "encoded", **parameters: Any) -> Any:
    """encoded: where the rows are. parameters: of the model, beside what all networks of the benchmark share."""
    settings, rows = benchmark.settings, Encoded(benchmark.folder / encoded)
    history, target = rows.part("history"), rows.part("target")
    kind = load_kind(name)
    common = {
        "embedding_dim": settings["embedding"],
        "hidden": tuple(settings["hidden"]),
        "dropout": 0.0,
        "embedding_optimizer": "adam",
        "embedding_learning_rate": 1e-3,
        "l2": 0.0,
        "loss": "pointwise",
        "epochs": settings["epochs"],
        "batch_displays": round(settings["batch"] * history.displays / history.rows),
    }
    config = kind.config(**{**common, **parameters})
    options = FitOptions(runtime=RuntimeConfig(threads=settings["threads"], device="cpu"), length=settings["epochs"])
    warm = kind.build(config)  # loads the compiled loops, or compiles them at the first run ever
    warm.fit(rows, FitOptions(runtime=options.runtime, length=1e-9))
    warm.predict(target)
    model = kind.build(config)
    benchmark.timed("training", lambda: model.fit(rows, options))
    return np.asarray(benchmark.timed("inference", lambda: model.predict(target)))
