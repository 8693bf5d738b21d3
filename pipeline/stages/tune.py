"""Search for better parameters of a model on a sample of the validation split; the study is kept and resumed."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.config import section
from pipeline.core.runtime import runtime
from pipeline.models.base import model_config
from pipeline.schemas.encoded import Encoded
from pipeline.stages.command import parser, run
from pipeline.tuning.picture import write_picture
from pipeline.tuning.search import TuningConfig, tune


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        encoded="folder of encoded arrays of the validation split (input)",
        study="journal file of the Optuna study (kept from run to run)",
        out="YAML file of the winning parameters (output)",
    )
    command.add_argument("--model", required=True, help="name of the model under `models` in the parameters")
    command.add_argument("--scores", type=Path, help="folder of what other models say, read as fields (input)")
    command.add_argument("--picture", type=Path, help="PNG file of history, importances and slices (output)")
    options = command.parse_args(arguments)
    kind, config = model_config(options.params, options.model)
    tuning = section(options.params, "tuning", TuningConfig)
    encoded = Encoded(options.encoded, options.scores)
    study = tune(kind, config, encoded, runtime(options.params), tuning, options.study, options.out)
    if options.picture:
        write_picture(study, options.picture)


if __name__ == "__main__":
    run(main)
