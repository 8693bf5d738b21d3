"""DeepCTR-Torch's DCN V2 (full matrices, two cross layers as ours, and a linear part) by its own fit and predict."""

from __future__ import annotations

from typing import Any

import deepctr_torch_deepfm
from deepctr_torch.models import DCN


def run(benchmark: Any) -> Any:
    return deepctr_torch_deepfm.run(benchmark, DCN, cross_num=2, cross_parameterization="matrix", l2_reg_cross=0)
