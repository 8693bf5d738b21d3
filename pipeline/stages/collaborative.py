"""Fit one collaborative group on what users viewed up to each day, and describe the split's rows with it."""

from __future__ import annotations

from pipeline.core.engine import open_engine
from pipeline.core.runtime import runtime
from pipeline.features.base import learner_config, write_group
from pipeline.features.smoothing import SmoothingConfig
from pipeline.stages.command import parser, run


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        tables="folder of typed tables (input)",
        split="folder of the split (input)",
        views="folder of page views by display (input)",
        out="folder of the group's columns (output)",
    )
    command.add_argument("--group", required=True, help="name of the group, a module of pipeline/features")
    o = command.parse_args(arguments)
    config = learner_config(o.params, o.group)
    with open_engine(runtime(o.params)) as engine:
        write_group(engine, o.group, o.tables, o.split, o.views, SmoothingConfig(), o.out, config)


if __name__ == "__main__":
    run(main)
