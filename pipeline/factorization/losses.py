"""The two losses of one display, and how they change with its logits."""

from __future__ import annotations

import math
from typing import Any

from numba import float32

from pipeline.core.compiled import compiled


@compiled
def residuals(logit: Any, n: int, clicked: Any, first: int, listwise: bool, residual: Any) -> float:
    """Loss of a display of n ads in nats, and its derivatives by the logits (n,) into `residual`.

    listwise: -log softmax of the click among the ads. pointwise: the sum of the ads' binary cross-entropies.
    clicked[first : first + n] are the labels.
    """
    loss = 0.0
    if listwise:
        top, partition = logit[0], float32(0)
        for i in range(1, n):
            top = max(top, logit[i])
        for i in range(n):
            residual[i] = math.exp(logit[i] - top)
        for i in range(n):
            partition += residual[i]
        for i in range(n):
            loss += clicked[first + i] * (math.log(partition) - (logit[i] - top))
        for i in range(n):
            residual[i] = residual[i] / partition - float32(clicked[first + i])
    else:
        for i in range(n):
            against = -logit[i] if clicked[first + i] else logit[i]
            loss += max(against, float32(0)) + math.log(float32(1) + math.exp(-abs(logit[i])))
        for i in range(n):
            small = math.exp(-abs(logit[i]))
            p = float32(1) / (float32(1) + small) if logit[i] > 0 else small / (float32(1) + small)
            residual[i] = p - float32(clicked[first + i])
    return loss
