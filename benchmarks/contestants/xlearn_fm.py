"""xlearn's factorization machine: AdaGrad at rate 0.2, L2 2e-5, normalised instances."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import xlearn


def run(benchmark: Any, kind: str = "fm") -> Any:
    settings = benchmark.settings
    first = np.cumsum([0, *settings["sizes"]])
    paths = {}
    for part in ("history", "target"):
        paths[part] = str(benchmark.folder / f"xlearn_{kind}_{part}.txt")
        ids, clicked = benchmark.codes(part) + first[:-1], benchmark.clicked(part)
        with open(paths[part], "w", encoding="ascii") as file:  # noqa: PTH123 - runs in the peers' environment
            for y, row in zip(clicked.tolist(), ids.tolist(), strict=True):
                fields = (f"{j}:{i}:1" if kind == "ffm" else f"{i}:1" for j, i in enumerate(row))
                file.write(f"{y} {' '.join(fields)}\n")

    def learner(epochs: int) -> tuple[Any, dict[str, Any]]:
        model = xlearn.create_ffm() if kind == "ffm" else xlearn.create_fm()
        model.setTrain(paths["history"])
        model.disableEarlyStop()
        model.setQuiet()
        k = 4 if kind == "ffm" else settings["embedding"]
        options = {"task": "binary", "lr": 0.2, "lambda": 2e-5, "k": k, "epoch": epochs, "nthread": settings["threads"]}
        return model, options

    file = str(benchmark.folder / f"xlearn_{kind}.model")
    model, options = learner(settings["epochs"])
    model.fit(options, file)  # the first call also turns the text into a cache of its own
    seconds = {}
    for epochs in (1, 1 + settings["epochs"]):  # reading the cache and writing the model do not count
        model, options = learner(epochs)
        start = time.perf_counter(), time.process_time()
        model.fit(options, file)
        seconds[epochs] = time.perf_counter() - start[0], time.process_time() - start[1]
    one, more = seconds.values()
    benchmark.seconds["training"] = more[0] - one[0], more[1] - one[1]
    model, options = learner(settings["epochs"])
    model.fit(options, file)
    model.setTest(paths["target"])
    output = str(benchmark.folder / f"xlearn_{kind}.txt")
    benchmark.timed("inference", lambda: model.predict(file, output))  # it reads the text again
    return np.loadtxt(output)
