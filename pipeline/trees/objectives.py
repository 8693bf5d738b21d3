"""Objectives that LightGBM does not have itself: functions of the scores so far that it asks for derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled

Scores = NDArray[np.float64]
Derivatives = tuple[NDArray[np.float32], NDArray[np.float32]]
Objective = Callable[[Scores, lgb.Dataset], Derivatives]

_LEAST_CURVATURE = 1e-6  # where a display is decided: a leaf's value is a sum of slopes by a sum of these


def listwise(scores: Scores, data: lgb.Dataset) -> Derivatives:
    """-log softmax of the click among the ads of its display: its first and second derivatives by each score (N,).

    What ListNet minimises where one ad is the relevant one (Cao et al. 2007, "Learning to rank: from pairwise approach
    to listwise approach"), and what a conditional logit does (McFadden 1974). Of the second ones the diagonal, as trees
    need it: p - y and p (1 - p).
    """
    slope, curvature = np.empty(len(scores), np.float32), np.empty(len(scores), np.float32)
    _listwise(scores, data.get_label(), data.get_field("group"), slope, curvature)
    return slope, curvature


OBJECTIVES: dict[str, Objective] = {"listwise": listwise}


@compiled
def _listwise(score: Any, clicked: Any, offsets: Any, slope: Any, curvature: Any) -> None:
    for display in range(len(offsets) - 1):
        first, end = offsets[display], offsets[display + 1]
        top, partition = score[first], 0.0
        for i in range(first + 1, end):
            top = max(top, score[i])
        for i in range(first, end):
            partition += math.exp(score[i] - top)
        for i in range(first, end):
            p = math.exp(score[i] - top) / partition
            slope[i] = p - clicked[i]
            curvature[i] = max(p * (1 - p), _LEAST_CURVATURE)
