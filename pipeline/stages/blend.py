"""Blend the members' predictions: choose weights on the validation split, apply them to both splits."""

from __future__ import annotations

import numpy as np

from pipeline.blend import BlendConfig, blend, correlations
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
        out="folder of validation.parquet, submission.parquet and weights.json (output)",
        metrics="JSON file of headline metrics (output)",
        slices="JSON file of metrics by slice (output)",
    )
    options = command.parse_args(arguments)
    config = section(options.params, "blend", BlendConfig)
    validation, submission = Encoded(options.validation), Encoded(options.submission)
    target = validation.part("target")
    labels = labels_of(target)
    paths = [options.validation_predictions / f"{member}.parquet" for member in config.members]
    logits = np.stack([read_scores(path, target) for path in paths], axis=1)
    result = blend(logits, labels, config)
    log.info("blend: %s; %s", result.way, dict(zip(config.members, result.weights.round(3).tolist(), strict=True)))
    score = within_display_logits(result.out_of_fold, target.offsets)
    write_predictions(options.out / "validation.parquet", target, score)
    scored = submission.part("target")
    total = np.zeros(scored.rows, dtype=np.float32)
    for member, weight in zip(config.members, result.weights, strict=True):
        total += np.float32(weight) * read_scores(options.submission_predictions / f"{member}.parquet", scored)
    write_predictions(options.out / "submission.parquet", scored, within_display_logits(total, scored.offsets))
    write_json(
        options.out / "weights.json",
        {
            "members": list(config.members),
            "weights": [round(float(weight), 6) for weight in result.weights],
            "way": result.way,
            "validated_map12": {way: round(value, 6) for way, value in result.validated.items()},
            "correlations": correlations(logits, labels).round(4).tolist(),
        },
    )
    write_metrics("blend", score, validation, options.metrics, options.slices)


if __name__ == "__main__":
    run(main)
