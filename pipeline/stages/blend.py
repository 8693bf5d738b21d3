"""Blend the members' predictions: choose how on the validation split, apply it to both splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.blending.blend import blend
from pipeline.blending.stack import BlendConfig, Stack, read_stack
from pipeline.blending.ways import scored
from pipeline.blending.weights import correlations
from pipeline.core.config import section
from pipeline.core.files import write_json
from pipeline.core.progress import log
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.predictions import labels_of, read_scores, within_display_logits, write_predictions
from pipeline.stages.command import parser, run
from pipeline.training import write_metrics


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        validation="encoded validation split (input)",
        submission="encoded submission split (input)",
        validation_predictions="folder of MODEL.parquet for the validation split (input)",
        submission_predictions="folder of MODEL.parquet for the submission split (input)",
        out="folder of validation.parquet, submission.parquet and blend.json (output)",
        metrics="JSON file of headline metrics (output)",
        slices="JSON file of metrics by slice (output)",
    )
    options = command.parse_args(arguments)
    config = section(options.params, "blend", BlendConfig)
    validation, submission = Encoded(options.validation), Encoded(options.submission)
    target, tested = validation.part("target"), submission.part("target")
    labels, stack = labels_of(target), _stack(validation, options.validation_predictions, config)
    result = blend(stack, labels, config)
    log.info("blend: %s; %s", result.way, result.combination.explain())
    score = within_display_logits(result.out_of_fold, target.offsets)
    write_predictions(options.out / "validation.parquet", target, score)
    alike = correlations(stack.logits, labels).round(4).tolist()
    del stack  # two of them would take several GB
    submitted = scored(result.combination, _stack(submission, options.submission_predictions, config))
    write_predictions(options.out / "submission.parquet", tested, within_display_logits(submitted, tested.offsets))
    write_json(
        options.out / "blend.json",
        {
            "members": list(config.members),
            "way": result.way,
            "chosen_by_fold": result.chosen,
            "columns": _rounded(result.combination.explain()),
            "context": {name: _rounded(values) for name, values in result.combination.explain_context().items()},
            "validated_map12": _rounded(result.validated),
            "validated_loss": _rounded(result.losses),
            "lost_without": _rounded(result.without),
            "correlations": alike,
        },
    )
    write_metrics("blend", score, validation, options.metrics, options.slices)


def _stack(encoded: Encoded, predictions: Path, config: BlendConfig) -> Stack:
    target = encoded.part("target")
    logits = np.stack([read_scores(predictions / f"{member}.parquet", target) for member in config.members], axis=1)
    return read_stack(encoded, logits, config.context)


def _rounded(values: dict[str, float] | dict[str, list[float]]) -> dict[str, float | list[float]]:
    return {
        name: [round(v, 6) for v in value] if isinstance(value, list) else round(value, 6)
        for name, value in values.items()
    }


if __name__ == "__main__":
    run(main)
