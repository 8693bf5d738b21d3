"""DeepCTR-Torch's Wide & Deep by its own fit and predict."""

from __future__ import annotations

from typing import Any

import deepctr_torch_deepfm
from deepctr_torch.models import WDL


def run(benchmark: Any) -> Any:
    return deepctr_torch_deepfm.run(benchmark, WDL)
