"""The same with full matrices in its cross layers, as DeepCTR-Torch has them."""

from __future__ import annotations

from typing import Any

import ours


def run(benchmark: Any) -> Any:
    return ours.run(benchmark, "dcnv2", rank=None)
