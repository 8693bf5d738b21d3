"""This project's DeepLight: pruned while it trains, to the shares of Deng et al. 2021; inference by what is left."""

from __future__ import annotations

from typing import Any

import ours


def run(benchmark: Any, embeddings: float = 0.9, hidden: float = 0.95, pairs: float = 0.6) -> Any:
    """Which shares of the network are removed.

    omega: of one epoch, in which each row is seen once, pruning takes the most, so as to judge what is read late, too.
    """
    sparsity = {"embedding_sparsity": embeddings, "hidden_sparsity": hidden, "pair_sparsity": pairs}
    return ours.run(benchmark, "deeplight", **sparsity, omega=0.7)
