"""Find what the user of each display viewed before and after it, in the order of the displays."""

from __future__ import annotations

from pipeline.core.config import section
from pipeline.core.engine import open_engine
from pipeline.core.runtime import runtime
from pipeline.stages.command import parser, run
from pipeline.views import ViewsConfig, write_views


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        tables="folder of typed tables (input)",
        split="folder of the split (input)",
        out="folder of page views by display (output)",
    )
    options = command.parse_args(arguments)
    config = section(options.params, "views", ViewsConfig)
    with open_engine(runtime(options.params)) as engine:
        write_views(engine, options.tables, options.split, config, options.out)


if __name__ == "__main__":
    run(main)
