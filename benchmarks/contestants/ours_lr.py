"""This project's logistic regression by FTRL, at the rate that is best on rows held out of those to learn from."""

from __future__ import annotations

from typing import Any

import ours_ffm


def run(benchmark: Any) -> Any:
    return ours_ffm.factorization(benchmark, "lr", benchmark.settings["rates"], "alpha")
