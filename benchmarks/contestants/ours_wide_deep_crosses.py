"""The same with crosses of three fields of a display with three of an ad, as many as params.yaml has."""

from __future__ import annotations

from typing import Any

import ours


def run(benchmark: Any) -> Any:
    return ours.run(benchmark, "wide_deep", crosses=("f4 x f13", "f6 x f15", "f2 x f17"))
