"""xlearn's field-aware factorization machine: k = 4, AdaGrad at rate 0.2, L2 2e-5, normalised instances."""

from __future__ import annotations

from typing import Any

import xlearn_fm


def run(benchmark: Any) -> Any:
    return xlearn_fm.run(benchmark, "ffm", k=4, rates=(0.2,))
