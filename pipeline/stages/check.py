"""Check all parameters before any data is read: an unknown key, a missing one or a wrong type stops the run at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from pipeline.blending.stack import BlendConfig
from pipeline.core.config import read_yaml, section
from pipeline.core.errors import ParameterError
from pipeline.core.files import write_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.encode import EncodeConfig
from pipeline.factorization.training import FactorizationConfig
from pipeline.features.base import learner_config, load_group
from pipeline.features.smoothing import SmoothingConfig
from pipeline.ingest.config import IngestConfig
from pipeline.leaves import GROUP as LEAVES
from pipeline.leaves import LeavesConfig, leaf_name
from pipeline.models.base import model_config
from pipeline.out_of_fold import GROUP as SCORES
from pipeline.out_of_fold import OutOfFoldConfig, able, score_name
from pipeline.schemas.encoded import twin_name
from pipeline.schemas.features import feature_names, leaks_allowed
from pipeline.schemas.impressions import COLD
from pipeline.sources.base import DataConfig
from pipeline.sources.simulated import SimulationConfig
from pipeline.split import SplitConfig
from pipeline.stages.command import parser, run
from pipeline.tuning.search import TuningConfig
from pipeline.views import ViewsConfig

SECTIONS = {
    "data": DataConfig,
    "simulation": SimulationConfig,
    "ingest": IngestConfig,
    "split": SplitConfig,
    "smoothing": SmoothingConfig,
    "views": ViewsConfig,
    "encode": EncodeConfig,
    "leaves": LeavesConfig,
    "out_of_fold": OutOfFoldConfig,
    "tuning": TuningConfig,
    "blend": BlendConfig,
    "runtime": RuntimeConfig,
}


def check_params(params: Path) -> None:
    """Raise ParameterError at the first thing in params.yaml that some stage would not understand."""
    known = [*SECTIONS, "features", "collaborative", "leaks", "models"]
    for name in read_yaml(params):
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(known)}"
            raise ParameterError(f"{params}: unknown section {name!r}; {hint}")
    for name, config in SECTIONS.items():
        section(params, name, config)
    leaks_allowed(params)
    _check_groups(params)
    models = read_yaml(params).get("models") or {}
    for name in models:
        model_config(params, name)
    _check_fields(params, models)
    scored = section(params, "out_of_fold", OutOfFoldConfig).models
    _find(f"{params}: out_of_fold.models", scored, models)
    for name in scored:
        try:
            able(*model_config(params, name))
        except ParameterError as error:
            raise ParameterError(f"{params}: out_of_fold.models: {name}: {error}") from None
    _find(f"{params}: blend.members", section(params, "blend", BlendConfig).members, models)


def _check_fields(params: Path, models: Iterable[str]) -> None:
    """The groups, fields and crosses that models and leaves name are there: else a model would only find out once all
    features stand."""
    leaves = section(params, "leaves", LeavesConfig)
    columns = {name: load_group(name).columns for name in feature_names(params)}
    fields = {column.name for group in columns.values() for column in group}
    fields |= {twin_name(column.name) for group in columns.values() for column in group if column.kind == "numeric"}
    if leaves.trees:
        _find(f"{params}: leaves.groups", leaves.groups, columns)
    _find(f"{params}: blend.context", section(params, "blend", BlendConfig).context, {*fields, *COLD})
    for name in models:
        kind, config = model_config(params, name)
        where, groups = f"{params}: models.{name}", getattr(config, "groups", ())
        if isinstance(config, FactorizationConfig):
            further, others = LEAVES, {leaf_name(tree) for tree in range(leaves.trees)}
            if LEAVES in groups and not leaves.trees:
                raise ParameterError(f"{where}: reads the group {LEAVES}, but leaves.trees is 0")
        else:
            scored = section(params, "out_of_fold", OutOfFoldConfig).models
            further, others = SCORES, {score_name(model) for model in scored}
            if LEAVES in groups:
                raise ParameterError(
                    f"{where}: the group {LEAVES} is for factorization models; one of kind {kind.name} does not read it"
                )
        crosses = [text.split(" x ") for text in getattr(config, "crosses", ())]
        _find(f"{where}.groups", groups, [*columns, further])
        _find(f"{where}.fields", getattr(config, "fields", ()), fields | others)
        _find(f"{where}.linear", getattr(config, "linear", ()), {*columns, further, *fields, *others})
        _find(f"{where}.crosses", (name for cross in crosses for name in cross), fields | others)


def check_stages(params: Path, pipeline: Path) -> None:
    """Raise ParameterError if dvc.yaml does not train a model of params.yaml, or refit a member of the blend."""
    stages = read_yaml(pipeline)["stages"]
    models, members = read_yaml(params).get("models") or {}, section(params, "blend", BlendConfig).members
    for where, names, verb in (("models.", models, "train"), ("blend.members: ", members, "refit")):
        there = {key for name, stage in stages.items() if name.startswith(f"{verb}_") for key in stage["foreach"]}
        for name in names:
            if name not in there:
                raise ParameterError(
                    f"{params}: {where}{name}: no stage of {pipeline} {verb}s it; README.md says where to add it"
                )


def _find(where: str, names: Iterable[str], there: Iterable[str]) -> None:
    known = sorted(there)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected of {', '.join(known)}"
            raise ParameterError(f"{where}: no {name!r} is there; {hint}")


def _check_groups(params: Path) -> None:
    """Every group is there, stands in the right list, and finds its parameters."""
    contents = read_yaml(params)
    collaborative = contents.get("collaborative", {})
    for name in feature_names(params):
        try:
            learns = load_group(name).learner is not None
            if not learns and name not in contents["features"]:
                learner_config(params, name)  # says what is wrong
        except ParameterError as error:
            raise ParameterError(f"{params}: {error}") from None
        if learns and name in contents["features"]:
            raise ParameterError(f"{params}: features: {name} is fitted; it belongs into collaborative.groups")
        if learns:
            learner_config(params, name)
    for name in collaborative:
        if name not in ("groups", *collaborative["groups"]):
            raise ParameterError(f"{params}: collaborative.{name}: not in collaborative.groups")


def main(arguments: list[str]) -> None:
    command = parser(__doc__, out="a file that says so (output)")
    command.add_argument("--pipeline", type=Path, default=Path("dvc.yaml"), help="the stages (input)")
    options = command.parse_args(arguments)
    check_params(options.params)
    check_stages(options.params, options.pipeline)
    write_json(options.out, {"params": "valid"})  # always the same, so that what depends on it does not run again


if __name__ == "__main__":
    run(main)
