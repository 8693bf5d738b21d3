"""What the package holds, found by looking, so that a new group or model is tested from its first day."""

from __future__ import annotations

import importlib
import pkgutil

import pipeline.features
import pipeline.models
import pipeline.stages
from pipeline.features.base import Group


def feature_groups() -> dict[str, Group]:
    """Every feature group, by name."""
    found = {}
    for module in pkgutil.iter_modules(pipeline.features.__path__):
        group = getattr(importlib.import_module(f"pipeline.features.{module.name}"), "GROUP", None)
        if group is not None:
            found[module.name] = group
    return found


def model_kinds() -> list[str]:
    """The names of all kinds of models; importing them takes seconds, so that is left to who asks."""
    return [module.name for module in pkgutil.iter_modules(pipeline.models.__path__) if module.name != "base"]


def stage_names() -> list[str]:
    """The names of all stages: modules that `python -m pipeline.stages.NAME` runs."""
    return [module.name for module in pkgutil.iter_modules(pipeline.stages.__path__) if module.name != "command"]
