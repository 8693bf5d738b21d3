"""Which leaf of each of some boosted trees an impression falls into: fields for models that multiply ids.

He et al. 2014, "Practical lessons from predicting clicks on ads at Facebook" (section 3.1): each tree is a categorical
field, its leaves are the values. It gives factorization machines what they have no way to learn, borders in numbers and
what several of them say together.

The trees learn from all of history, as does the model that reads them: a leaf tells no more of a display than what the
trees read of it. They are few, and their leaves large, so that none can be cut to fit single displays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import check
from pipeline.core.errors import ParameterError
from pipeline.core.files import atomic_path, remove, write_json
from pipeline.core.progress import log
from pipeline.models.lightgbm import MOST_LEAVES, Config, GradientBoostedTrees
from pipeline.schemas.encoded import Encoded, Field, code_type, write_scores
from pipeline.schemas.features import HINDSIGHT, Scope
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.impressions import Part
from pipeline.trees import dataset

GROUP = "leaves"  # of the fields
_PARTS: tuple[Part, ...] = ("history", "target")


@dataclass(frozen=True, kw_only=True, slots=True)
class LeavesConfig:
    """The section `leaves` of params.yaml.

    trees: how many, each a field leaf_K of the group `leaves`; 0 for none. The rest as in models.lightgbm: groups and
    scopes of what they read, and how they grow.
    """

    trees: int = 0
    groups: tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ()
    num_leaves: int = 15
    learning_rate: float = 0.1
    min_data_in_leaf: int = 200
    seed: int = 1

    def __post_init__(self) -> None:
        check(self.trees >= 0, f"trees: must be 0 or more, found {self.trees}")
        check(
            2 <= self.num_leaves <= MOST_LEAVES, f"num_leaves: must be from 2 to {MOST_LEAVES}, found {self.num_leaves}"
        )
        check(self.min_data_in_leaf >= 1, f"min_data_in_leaf: must be 1 or more, found {self.min_data_in_leaf}")
        check(self.learning_rate > 0, f"learning_rate: must be above 0, found {self.learning_rate}")
        check(self.seed >= 0, f"seed: must be 0 or more, found {self.seed}")


def write_leaves(encoded: Encoded, config: LeavesConfig, options: FitOptions, out: Path) -> None:
    """Grow the trees on history and write the leaves of both parts, a folder leaf_K below `out` for each tree, and
    trees.json, which says how many there are and what they read.

    Raises ParameterError if the groups or scopes hold nothing that trees read.
    """
    with atomic_path(out) as partial:
        partial.mkdir()
        read: list[str] = []
        if config.trees:
            model = _grown(encoded, config, options)
            _write(model, encoded, config, partial)
            read = [field.name for field in model.fields]
        write_json(partial / "trees.json", {"trees": config.trees, "read": read})
    if options.checkpoint is not None:
        remove(options.checkpoint)


def _grown(encoded: Encoded, config: LeavesConfig, options: FitOptions) -> GradientBoostedTrees:
    grow = Config(
        groups=config.groups,
        scopes=config.scopes,
        num_leaves=config.num_leaves,
        learning_rate=config.learning_rate,
        min_data_in_leaf=config.min_data_in_leaf,
        max_bin=63,
        seed=config.seed,
    )
    model = GradientBoostedTrees(grow)
    try:
        model.fit(encoded, FitOptions(runtime=options.runtime, length=config.trees, checkpoint=options.checkpoint))
    except ParameterError as error:
        raise ParameterError(f"leaves: {error}") from None
    return model


def _write(model: GradientBoostedTrees, encoded: Encoded, config: LeavesConfig, out: Path) -> None:
    """Block by block into arrays on disk, a row a tree, of which each then becomes a field."""
    assert model.booster is not None
    trees, size = model.booster.num_trees(), config.num_leaves + 1
    scope: Scope = "future" if any(field.scope in HINDSIGHT for field in model.fields) else "time-causal"
    with TemporaryDirectory(dir=out) as scratch:
        codes: dict[Part, NDArray[np.integer]] = {}
        for name in _PARTS:
            part, path = encoded.part(name), Path(scratch) / f"{name}.npy"
            found = np.lib.format.open_memmap(path, "w+", dtype=code_type(size), shape=(trees, part.rows))
            for rows, leaves in dataset.leaves(model.booster, part, model.fields):
                found[:, rows] = leaves.T + 1  # 0 is for "unknown"
            codes[name] = found
        for tree in range(trees):
            field = Field(
                name=leaf_name(tree),
                group=GROUP,
                kind="categorical",
                per="impression",
                meaning=f"leaf of tree {tree}",
                scope=scope,
                size=size,
            )
            write_scores(out / field.name, encoded, field, {name: of[tree] for name, of in codes.items()})
    log.info("%d trees, %d leaves", trees, trees * config.num_leaves)


def leaf_name(tree: int) -> str:
    return f"leaf_{tree}"
