"""Compute one feature group for one split: impressions and typed tables -> columns in the impressions' order."""

from __future__ import annotations

from pipeline.core.config import section
from pipeline.core.engine import open_engine
from pipeline.core.runtime import runtime
from pipeline.features.base import write_group
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
    options = command.parse_args(arguments)
    smoothing = section(options.params, "smoothing", SmoothingConfig)
    with open_engine(runtime(options.params)) as engine:
        write_group(engine, options.group, options.tables, options.split, options.views, smoothing, options.out)


if __name__ == "__main__":
    run(main)
