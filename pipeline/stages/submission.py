"""Write a submission file from predictions of the submission split, checked against clicks_test."""

from __future__ import annotations

from pipeline.core.progress import log
from pipeline.stages.command import parser, run
from pipeline.submission import write_submission


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        predictions="predictions of the submission split (input)",
        clicks_test="the typed table clicks_test (input)",
        out="the CSV that Kaggle takes (output)",
    )
    options = command.parse_args(arguments)
    displays = write_submission(options.predictions, options.clicks_test, options.out)
    log.info("%s: %d displays", options.out, displays)


if __name__ == "__main__":
    run(main)
