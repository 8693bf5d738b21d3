"""Fix who is scored and the order of all rows: typed tables -> one split's history and target impressions."""

from __future__ import annotations

from typing import get_args

from pipeline.core.config import section
from pipeline.core.engine import open_engine
from pipeline.core.runtime import runtime
from pipeline.split import SplitConfig, SplitName, write_split
from pipeline.stages.command import parser, run


def main(arguments: list[str]) -> None:
    command = parser(__doc__, tables="folder of typed tables (input)", out="folder of the split (output)")
    command.add_argument("--split", choices=get_args(SplitName), required=True, help="which split to make")
    options = command.parse_args(arguments)
    config = section(options.params, "split", SplitConfig)
    with open_engine(runtime(options.params)) as engine:
        write_split(engine, options.tables, options.split, config, options.out)


if __name__ == "__main__":
    run(main)
