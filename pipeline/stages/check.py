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
from pipeline.features.base import learner_config, load_group
from pipeline.features.smoothing import SmoothingConfig
from pipeline.ingest.config import IngestConfig
from pipeline.leaves import GROUP, LeavesConfig
from pipeline.models.base import model_config
from pipeline.schemas.features import feature_names, leaks_allowed
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
    _check_leaves(params, models)
    for member in section(params, "blend", BlendConfig).members:
        if member not in models:
            raise ParameterError(f"{params}: blend.members: {member!r} is not under models: {', '.join(models)}")


def _check_leaves(params: Path, models: Iterable[str]) -> None:
    """Trees are grown for the models that name their leaves, from groups that are there."""
    leaves, known = section(params, "leaves", LeavesConfig), feature_names(params)
    unknown = [group for group in leaves.groups if group not in known]
    if leaves.trees and unknown:
        raise ParameterError(f"{params}: leaves.groups: {unknown[0]!r} is not among the groups: {', '.join(known)}")
    for name in models:
        if not leaves.trees and GROUP in getattr(model_config(params, name)[1], "groups", ()):
            raise ParameterError(f"{params}: models.{name}: reads the group {GROUP}, but leaves.trees is 0")


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
    options = parser(__doc__, out="a file that says so (output)").parse_args(arguments)
    check_params(options.params)
    write_json(options.out, {"params": "valid"})  # always the same, so that what depends on it does not run again


if __name__ == "__main__":
    run(main)
