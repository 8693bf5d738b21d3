"""Say what a run came to: a summary to print, one HTML page, and a picture of the scores by slice."""

from __future__ import annotations

from pathlib import Path

from pipeline.blending.stack import BlendConfig
from pipeline.core.config import section
from pipeline.core.files import write_text
from pipeline.report import Files, gather, summary
from pipeline.report_page import write_page
from pipeline.schemas.features import leaks_allowed
from pipeline.stages.command import parser, run


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        manifest="manifest.json of the raw files (input)",
        ingest="report of ingest (input)",
        truth="folder of what is known of a simulated world's clicks (input)",
        validation="encoded validation split (input)",
        submission="encoded submission split (input)",
        predictions="folder of predictions of the submission split (input)",
        blend="folder of the blend (input)",
        metrics="folder of headline metrics (input)",
        slices="folder of metrics by slice (input)",
        csv="the submission that the report is about (input)",
        out="text that `make repro` ends with (output)",
        page="HTML page (output)",
        picture="PNG of MAP@12 by slice (output)",
    )
    command.add_argument("--baseline", required=True, help="the model that stands for ad CTR")
    command.add_argument("--leaky", required=True, help="a model that reads what no production system could know")
    command.add_argument("--causal", required=True, help="the same model without that")
    command.add_argument("--also", nargs="*", default=[], help="models that are told of beside the blend's members")
    options = vars(command.parse_args(arguments))
    files = Files(**{name: options[name] for name in Files.__dataclass_fields__})
    members = section(options["params"], "blend", BlendConfig).members
    csv: Path = options["csv"]
    report = gather(
        files,
        [*members, *options["also"]],
        options["baseline"],
        (options["leaky"], options["causal"]),
        csv.as_posix(),
        leaks=leaks_allowed(options["params"]),
    )
    write_text(options["out"], summary(report))
    write_page(report, options["page"], options["picture"])


if __name__ == "__main__":
    run(main)
