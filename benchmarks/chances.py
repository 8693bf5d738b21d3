"""What a ranking is worth by the chances of a simulated world's clicks, instead of by those that happened to fall.

The oracle's scores are logits of those chances, given all that can be known, so no ranking can be worth more than its.
Of two rankings the difference is the same on average, but luck plays a smaller part: that of which displays there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import CUTOFF, Floats, Labelled, softmax, tie_hash


def expected_gain(score: Floats, oracle: Floats, labels: Labelled) -> NDArray[np.float64]:
    """The expected 1 / rank (D,) of each display's click, 0 beyond rank 12. score, oracle: (N,); ties as in MAP@12."""
    offsets = np.asarray(labels.offsets)
    starts, lengths = offsets[:-1], np.diff(offsets)
    display = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((tie_hash(labels.display_id[display], labels.ad_id), -score, display))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, lengths) + 1
    chance = softmax(oracle.astype(np.float64), offsets, labels.clicked)[1]
    return np.add.reduceat(np.where(rank <= CUTOFF, chance / rank, 0.0), starts)
