"""This project's FFM, as the stage `train` runs it: fit and predict, reading from disk included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.core.runtime import RuntimeConfig
from pipeline.metrics import log_loss
from pipeline.models.base import load_kind
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions


def run(benchmark: Any, encoded: str = "encoded") -> Any:
    """k, L2 and normalisation as libffm and xlearn have them by default. encoded: where the rows are."""
    return factorization(benchmark, "ffm", encoded=encoded, k=4, l2=2e-5)


def factorization(
    benchmark: Any,
    name: str,
    rates: Sequence[float] = (0.2,),
    rated: str = "learning_rate",
    encoded: str = "encoded",
    **parameters: Any,
) -> Any:
    """A factorization model; several threads race, as those of libffm and xlearn do.

    rates: of these the one is taken with which the model learns best, if there are several; rated: the name of the
    parameter. encoded: where the rows are. parameters: further ones of the model.
    """
    settings, rows = benchmark.settings, Encoded(benchmark.folder / encoded)
    kind, history = load_kind(name), rows.part("history")
    options = FitOptions(runtime=RuntimeConfig(threads=settings["threads"]), length=settings["epochs"])

    def build(rate: float) -> Any:
        hogwild = settings["threads"] > 1
        return kind.build(kind.config(loss="pointwise", hogwild=hogwild, **parameters, **{rated: rate}))

    def held_out_loss(rate: float) -> float:
        model, kept = build(rate), benchmark.held_in()
        displays = int(np.searchsorted(history.offsets, kept))
        left_out = np.where(np.arange(history.displays) < displays, -1, 0).astype(np.int8)
        model.fit(rows, FitOptions(runtime=options.runtime, length=options.length, left_out=left_out))
        return float(log_loss(model.predict(history)[kept:], history.array("clicked")[kept:]))

    warm = build(rates[0])  # loads the compiled kernels, or compiles them at the first run ever
    warm.fit(rows, FitOptions(runtime=options.runtime, length=1e-9))
    warm.predict(rows.part("target"))
    model = build(min(rates, key=held_out_loss) if len(rates) > 1 else rates[0])
    benchmark.timed("training", lambda: model.fit(rows, options))
    return np.asarray(benchmark.timed("inference", lambda: model.predict(rows.part("target"))))
