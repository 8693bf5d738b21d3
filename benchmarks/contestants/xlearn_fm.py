"""xlearn's factorization machine: AdaGrad, L2 2e-5, normalised instances; its rate is chosen as that of ours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xlearn


def run(benchmark: Any, kind: str = "fm", k: int = 0, rates: Sequence[float] = ()) -> Any:
    files = _Files(benchmark, kind)
    epochs, k, rates = (
        benchmark.settings["epochs"],
        k or benchmark.settings["embedding"],
        rates or benchmark.settings["rates"],
    )
    history, target = files.of("history"), files.of("target")
    model_file, output = files.path("model"), files.path("scores")

    def learner(epochs: int, rate: float, train: str = history) -> tuple[Any, dict[str, Any]]:
        model = xlearn.create_ffm() if kind == "ffm" else xlearn.create_fm()
        model.setTrain(train)
        model.disableEarlyStop()
        model.setQuiet()
        threads = benchmark.settings["threads"]
        options = {"task": "binary", "lr": rate, "lambda": 2e-5, "k": k, "epoch": epochs, "nthread": threads}
        return model, options

    def predict(model: Any, test: str) -> None:
        model.setTest(test)
        model.predict(model_file, output)

    def held_out_loss(rate: float) -> float:
        kept = benchmark.held_in()
        model, options = learner(epochs, rate, files.of("history", slice(kept), "held_in"))
        model.fit(options, model_file)
        predict(model, files.of("history", slice(kept, None), "held_out"))
        clicked = benchmark.clicked("history")[kept:]
        return float(np.logaddexp(0, np.where(clicked, -1, 1) * np.loadtxt(output)).mean())

    rate = min(rates, key=held_out_loss) if len(rates) > 1 else rates[0]
    model, options = learner(epochs, rate)
    model.fit(options, model_file)  # the first call also turns the text into a cache of its own
    runs: dict[int, list[tuple[float, float]]] = {1: [], 1 + epochs: []}
    for count in [*runs] * benchmark.REPEATS:  # reading the cache and writing the model do not count
        model, options = learner(count, rate)
        start = time.perf_counter(), time.process_time()
        model.fit(options, model_file)
        runs[count].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    one, more = map(min, runs.values())
    benchmark.seconds["training"] = more[0] - one[0], more[1] - one[1]
    model, options = learner(epochs, rate)
    model.fit(options, model_file)
    benchmark.timed("inference", lambda: predict(model, target))  # it reads the text again
    return np.loadtxt(output)


class _Files:
    """The data as xlearn reads it: text."""

    def __init__(self, benchmark: Any, kind: str) -> None:
        self.benchmark, self.kind = benchmark, kind

    def path(self, name: str) -> str:
        return str(self.benchmark.folder / f"xlearn_{self.kind}_{name}.txt")

    def of(self, part: str, rows: slice = slice(None), name: str = "") -> str:
        """Some rows of a part, written once."""
        path = self.path(name or part)
        if not Path(path).exists():
            first = np.cumsum([0, *self.benchmark.settings["sizes"]])
            ids, clicked = self.benchmark.codes(part)[rows] + first[:-1], self.benchmark.clicked(part)[rows]
            with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - runs in the peers' environment
                for y, row in zip(clicked.tolist(), ids.tolist(), strict=True):
                    fields = (f"{j}:{i}:1" if self.kind == "ffm" else f"{i}:1" for j, i in enumerate(row))
                    file.write(f"{y} {' '.join(fields)}\n")
        return path
