"""Write into which leaf of each of some boosted trees each impression falls: fields for factorization models.

With leaves.trees: 0 there are none. Models read the fields where they name the group `leaves`.
"""

from __future__ import annotations

from pipeline.core.config import section
from pipeline.core.runtime import runtime
from pipeline.leaves import LeavesConfig, write_leaves
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from pipeline.stages.command import parser, run


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        encoded="folder of encoded arrays (input)",
        out="folder of the fields (output)",
        checkpoint="folder in which a killed run finds what it needs to go on; removed at the end",
    )
    options = command.parse_args(arguments)
    fit = FitOptions(runtime=runtime(options.params), checkpoint=options.checkpoint)
    write_leaves(Encoded(options.encoded), section(options.params, "leaves", LeavesConfig), fit, options.out)


if __name__ == "__main__":
    run(main)
