"""LightGBM as it is by default (100 trees of 31 leaves), each field's codes taken for a number."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np


def run(benchmark: Any) -> Any:
    parameters = {"objective": "binary", "num_threads": benchmark.settings["threads"], "verbose": -1}
    codes, clicked = benchmark.codes("history"), benchmark.clicked("history")
    train = lambda: lightgbm.train(parameters, lightgbm.Dataset(codes, clicked))  # noqa: E731
    model, target = benchmark.timed("training", train, epochs=1), benchmark.codes("target")
    return np.asarray(benchmark.timed("inference", lambda: model.predict(target, raw_score=True)))
