"""libffm (Juan et al.) in the wrapper pylibffm: k = 4, rate 0.2, L2 2e-5, normalised instances, its own defaults."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pylibffm import make_bin, train_with_bin
from scipy.sparse import csr_matrix


def run(benchmark: Any) -> Any:
    sizes = benchmark.settings["sizes"]
    first = np.cumsum([0, *sizes])
    field_of = np.repeat(np.arange(len(sizes)), sizes)

    def matrix(part: str) -> csr_matrix:
        ids = benchmark.codes(part) + first[:-1]
        starts = np.arange(0, ids.size + 1, len(sizes))
        return csr_matrix((np.ones(ids.size, np.float32), ids.reshape(-1), starts), shape=(len(ids), first[-1]))

    folder = benchmark.folder / "libffm"  # it reads from a file of its own, which does not count
    path, _ = make_bin(folder, matrix("history"), benchmark.clicked("history").astype(np.float32), field_of)
    options = {"nr_iters": benchmark.settings["epochs"], "k": 4}
    model = benchmark.timed("training", lambda: train_with_bin(path, options))
    model.W = _mended(model.W)
    target = matrix("target")
    p = _mended(benchmark.timed("inference", lambda: model.predict(target, field_of))).astype(np.float64)
    return np.log(p) - np.log1p(-p)


def _mended(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """The wrapper's arrays have a stride of 0, by which every number would be the first one."""
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(array, strides=(array.itemsize,)))
