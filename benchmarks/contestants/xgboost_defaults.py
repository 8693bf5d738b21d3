"""XGBoost as it is by default (100 trees of depth 6), each field's codes taken for a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost


def run(benchmark: Any) -> Any:
    model = xgboost.XGBClassifier(n_jobs=benchmark.settings["threads"])
    codes, clicked = benchmark.codes("history"), benchmark.clicked("history")
    benchmark.timed("training", lambda: model.fit(codes, clicked), epochs=1)
    target = benchmark.codes("target")
    return np.asarray(benchmark.timed("inference", lambda: model.predict(target, output_margin=True)))
