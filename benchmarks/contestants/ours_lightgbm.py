"""This project's boosted trees on all fields: as many as LightGBM grows by default, as large, at the same rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.runtime import RuntimeConfig
from pipeline.models.base import load_kind
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions


def run(benchmark: Any) -> Any:
    encoded, kind = Encoded(benchmark.folder / "encoded"), load_kind("lightgbm")
    config = kind.config(fields=tuple(encoded.fields), objective="binary", num_leaves=31, learning_rate=0.1)
    options = FitOptions(runtime=RuntimeConfig(threads=benchmark.settings["threads"]), length=100)
    model, target = kind.build(config), encoded.part("target")
    benchmark.timed("training", lambda: model.fit(encoded, options), epochs=1)
    return np.asarray(benchmark.timed("inference", lambda: model.predict(target)))
