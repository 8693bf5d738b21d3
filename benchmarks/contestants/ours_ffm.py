"""This project's FFM, as the stage `train` runs it: fit and predict, reading from disk included."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.runtime import RuntimeConfig
from pipeline.models.base import load_kind
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions


def run(benchmark: Any, name: str = "ffm", k: int = 4, rate: float = 0.2) -> Any:
    """k, rate, L2 and normalisation as libffm and xlearn have them by default; several threads race, as theirs do."""
    settings, encoded = benchmark.settings, Encoded(benchmark.folder / "encoded")
    kind = load_kind(name)
    config = kind.config(k=k, loss="pointwise", learning_rate=rate, l2=2e-5, hogwild=settings["threads"] > 1)
    options = FitOptions(runtime=RuntimeConfig(threads=settings["threads"]), length=settings["epochs"])
    warm = kind.build(config)  # loads the compiled kernels, or compiles them at the first run ever
    warm.fit(encoded, FitOptions(runtime=options.runtime, length=1e-9))
    warm.predict(encoded.part("target"))
    model = kind.build(config)
    benchmark.timed("training", lambda: model.fit(encoded, options))
    return np.asarray(benchmark.timed("inference", lambda: model.predict(encoded.part("target"))))
