"""This project's DeepLight: pruned while it trains, to the shares of Deng et al. 2021; inference by what is left."""

from __future__ import annotations

from typing import Any

import ours


def run(benchmark: Any, embeddings: float = 0.9, hidden: float = 0.95, pairs: float = 0.6) -> Any:
    """Which shares of the network are removed.

    warmup, omega: of one epoch, in which each row is seen once, pruning takes the later part, when most has been read.
    """
    sparsity = {"embedding_sparsity": embeddings, "hidden_sparsity": hidden, "pair_sparsity": pairs}
    return ours.run(benchmark, "deeplight", **sparsity, warmup=0.4, omega=0.5)
