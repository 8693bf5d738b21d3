"""Turn the columns of all feature groups of one split into codes, bags and numbers that models read from disk."""

from __future__ import annotations

from pipeline.core.config import section
from pipeline.core.engine import open_engine
from pipeline.core.runtime import runtime
from pipeline.encode import EncodeConfig, encode_split
from pipeline.schemas.features import feature_names, leaks_allowed
from pipeline.stages.command import parser, run


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        split="folder of the split (input)",
        features="folder of the split's feature groups (input)",
        out="folder of encoded arrays (output)",
    )
    options = command.parse_args(arguments)
    config = section(options.params, "encode", EncodeConfig)
    with open_engine(runtime(options.params)) as engine:
        encode_split(
            engine,
            options.split,
            options.features,
            feature_names(options.params),
            config,
            options.out,
            leaks=leaks_allowed(options.params),
        )


if __name__ == "__main__":
    run(main)
