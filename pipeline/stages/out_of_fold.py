"""Score history by fits that have not learned from the display, as a field for the models that read scores."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.config import section
from pipeline.core.files import remove
from pipeline.core.runtime import runtime
from pipeline.models.base import model_config, seeds_of
from pipeline.out_of_fold import OutOfFoldConfig, out_of_fold
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from pipeline.stages.command import parser, run
from pipeline.training import trained_length


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        encoded="folder of encoded arrays (input)",
        like="folder of the model that validation fitted: for how long to train (input)",
        predictions="scores of the split's target by the same model, fitted on all of history (input)",
        out="folder of the field (output)",
        checkpoint="folder in which a killed run finds what it needs to go on; removed at the end",
    )
    command.add_argument("--model", required=True, help="name of the model under `models` in the parameters")
    command.add_argument("--scores", type=Path, help="folder of what other models say, read as fields (input)")
    command.add_argument("--tuned", type=Path, help="YAML file with the winners of tuning (input)")
    options = command.parse_args(arguments)
    kind, config = model_config(options.params, options.model, options.tuned)
    fit = FitOptions(
        runtime=runtime(options.params), length=trained_length(options.like), checkpoint=options.checkpoint
    )
    encoded, seeds = Encoded(options.encoded, options.scores), seeds_of(options.params, options.model)
    chosen = section(options.params, "out_of_fold", OutOfFoldConfig)
    out_of_fold(options.model, kind, config, encoded, fit, chosen.folds, options.predictions, options.out, seeds)
    for field in options.out.parent.glob("*/field.json"):
        if field.parent.name not in chosen.models:  # of an earlier run: whoever reads scores would read it, too
            remove(field.parent)


if __name__ == "__main__":
    run(main)
