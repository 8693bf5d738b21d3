"""Leaves of boosted trees as fields: what they hold, what a factorization machine learns by them, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import ParameterError
from pipeline.core.files import read_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.leaves import GROUP, LeavesConfig, write_leaves
from pipeline.metrics import map12
from pipeline.models import lightgbm
from pipeline.models.base import load_kind
from pipeline.schemas.encoded import Encoded, write_scores
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.impressions import Part
from pipeline.schemas.predictions import labels_of
from pipeline.stages.check import check_params
from pipeline.trees.dataset import Rows
from tests.synthetic import Displays, best_of, categorical, numeric, write_encoded, write_mixed

RUNTIME = RuntimeConfig(threads=1)
CONFIG = LeavesConfig(trees=3, num_leaves=4, min_data_in_leaf=5)
PARTS: tuple[Part, ...] = ("history", "target")


def grown(world: Encoded, out: Path, config: LeavesConfig = CONFIG) -> Encoded:
    """The world with the leaves as further fields."""
    write_leaves(world, config, FitOptions(runtime=RUNTIME, checkpoint=out.with_name("checkpoint")), out)
    return Encoded(world.folder, out)


def middling(folder: Path, displays: int) -> Encoded:
    """The click goes to the ad whose number is closest to 0; the ids say nothing of it."""
    random, parts = np.random.default_rng(5), []
    for count in (displays, displays // 2):
        lengths = np.full(count, 4)
        number = random.normal(size=4 * count).astype(np.float32)
        columns = {"ad": random.integers(1, 30, 4 * count), "number": number}
        parts.append(Displays(lengths, columns, best_of(-np.abs(number.astype(np.float64)), lengths)))
    return write_encoded(folder, [categorical("ad", 30), numeric("number")], *parts)


def test_codes_are_the_leaves_of_the_trees(tmp_path: Path) -> None:
    world = write_mixed(tmp_path / "encoded", displays=300)
    found = grown(world, tmp_path / "leaves")
    grow = lightgbm.Config(num_leaves=4, learning_rate=0.1, min_data_in_leaf=5, max_bin=63)
    model = lightgbm.GradientBoostedTrees(grow)
    model.fit(world, FitOptions(runtime=RUNTIME, length=3))
    assert model.booster is not None
    for name in PARTS:
        part = found.part(name)
        leaves = np.asarray(model.booster.predict(Rows(part, model.fields)[0 : part.rows], pred_leaf=True))
        codes = np.stack([np.asarray(part.field(f"leaf_{tree}")) for tree in range(3)], axis=1)
        assert np.array_equal(codes, leaves + 1)
        assert len(np.unique(codes[:, 0])) > 1, "a tree without a split tells nothing"
    assert [(f.name, f.kind, f.size) for f in found.select((GROUP,), ())] == [
        (f"leaf_{tree}", "categorical", 5) for tree in range(3)
    ]
    assert not (tmp_path / "checkpoint").exists()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    world = write_mixed(tmp_path / "encoded", displays=300)
    first, second, other = (
        grown(world, tmp_path / name, replace(CONFIG, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.digest == second.digest != other.digest


def test_what_comes_after_the_display_marks_the_leaves(tmp_path: Path) -> None:
    world = write_mixed(tmp_path / "encoded", displays=300)
    assert {f.scope for f in grown(world, tmp_path / "a").select((GROUP,), ())} == {"time-causal"}
    world.fields["age"] = replace(world.fields["age"], scope="future")
    assert {f.scope for f in grown(world, tmp_path / "b").select((GROUP,), ())} == {"future"}


def test_an_ffm_learns_borders_in_numbers_by_leaves(tmp_path: Path) -> None:
    world = middling(tmp_path / "encoded", 2000)
    kind, scores = load_kind("ffm"), {}
    for name, read in (("without", world), ("with", grown(world, tmp_path / "leaves", replace(CONFIG, num_leaves=8)))):
        groups = ("synthetic", GROUP) if name == "with" else ("synthetic",)
        model = kind.build(kind.config(groups=groups, epochs=3))
        model.fit(read, FitOptions(runtime=RUNTIME))
        scores[name] = map12(model.predict(read.part("target")), labels_of(read.part("target")))
    assert scores["with"] > scores["without"] + 0.1, scores


def test_scores_of_a_model_that_reads_leaves_go_with_the_same_data(tmp_path: Path) -> None:
    world = write_mixed(tmp_path / "encoded", displays=300)
    read = grown(world, tmp_path / "leaves")
    field = replace(numeric("base_score"), group="scores")
    scores = {name: np.zeros(read.part(name).rows, np.float32) for name in PARTS}
    write_scores(tmp_path / "scores" / "base", read, field, scores)
    assert "base_score" in Encoded(world.folder, tmp_path / "scores").fields


def test_no_trees_add_no_field(tmp_path: Path) -> None:
    world = write_mixed(tmp_path / "encoded")
    found = grown(world, tmp_path / "leaves", LeavesConfig())
    assert read_json(tmp_path / "leaves" / "trees.json") == {"trees": 0, "read": []}
    assert (found.fields, found.digest) == (world.fields, world.digest)


def test_groups_must_be_there(tmp_path: Path) -> None:
    world = write_mixed(tmp_path / "encoded")
    with pytest.raises(ParameterError, match="leaves: groups: view not encoded; there are synthetic"):
        grown(world, tmp_path / "leaves", replace(CONFIG, groups=("view",)))
    assert not (tmp_path / "leaves").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("trees", -1), ("num_leaves", 200_000), ("learning_rate", 0.0), ("seed", -1)]
)
def test_bad_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=f"{name}: must be .*, found {value}"):
        LeavesConfig(**{name: value})


def test_a_model_that_names_leaves_needs_trees(tmp_path: Path) -> None:
    params = Path("params.yaml").read_text(encoding="utf-8")
    path, named = tmp_path / "params.yaml", params.replace("affinity, leak]   #", "affinity, leak, leaves]   #")
    assert named != params
    path.write_text(named, encoding="utf-8")
    with pytest.raises(ParameterError, match=r"models.ffm: reads the group leaves, but leaves.trees is 0"):
        check_params(path)
    grow = named.replace("trees: 0", "trees: 5")
    path.write_text(grow, encoding="utf-8")
    check_params(path)
    path.write_text(grow.replace("groups: [views, affinity", "groups: [view, affinity"), encoding="utf-8")
    with pytest.raises(ParameterError, match=r"leaves.groups: no 'view' is there; did you mean views\?"):
        check_params(path)
    path.write_text(params.replace("leak, scores]", "leak, leaves]", 1), encoding="utf-8")
    with pytest.raises(ParameterError, match=r"models.deepfm: the group leaves is for factorization models"):
        check_params(path)
