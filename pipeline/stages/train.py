"""Fit a model on one split, score the split's target, and measure the scores where the labels are known.

Without --like training stops early, by MAP@12 of the target; with it, it goes on for as long as that model was trained.
Where runtime.machines names several, each of them runs this command with its own --rank. Networks train in several
processes by `torchrun --nproc-per-node 2 -m pipeline.stages.train ...`, which tells each of them its own.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.core import processes
from pipeline.core.config import check
from pipeline.core.files import read_json, write_json
from pipeline.core.runtime import runtime
from pipeline.models.base import model_config, seeds_of
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from pipeline.stages.command import parser, run
from pipeline.training import train, trained_length, write_metrics

_NO_RANK = "--rank {}: expected the number, from 0, of one of runtime.machines, found {}"


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        encoded="folder of encoded arrays (input)",
        out="folder of the fitted model and of fit.json (output)",
        predictions="scores of the split's target (output)",
        checkpoint="folder in which a killed run finds what it needs to go on; removed at the end",
    )
    command.add_argument("--model", required=True, help="name of the model under `models` in the parameters")
    command.add_argument("--scores", type=Path, help="folder of what other models say, read as fields (input)")
    command.add_argument("--tuned", type=Path, help="YAML file with the winners of tuning (input)")
    command.add_argument("--like", type=Path, help="folder of the model that validation fitted (input)")
    command.add_argument("--metrics", type=Path, help="JSON file of headline metrics (output)")
    command.add_argument("--slices", type=Path, help="JSON file of metrics by slice (output)")
    command.add_argument("--curve", type=Path, help="JSON file of MAP@12 during training (output)")
    command.add_argument(
        "--rank", type=int, default=0, help="which of runtime.machines this is (default: 0, which writes)"
    )
    options = command.parse_args(arguments)
    kind, config = model_config(options.params, options.model, options.tuned)
    machine = runtime(options.params)
    check(0 <= options.rank < max(1, len(machine.machines)), _NO_RANK.format(options.rank, list(machine.machines)))
    check(
        kind.distributed or not options.rank, f"--rank {options.rank}: machine 0 alone fits models of kind {kind.name}"
    )
    check(processes.count() == 1 or not kind.distributed, f"torchrun: {kind.name} asks for runtime.machines instead")
    encoded = Encoded(options.encoded, options.scores)
    rank = options.rank if kind.distributed and len(machine.machines) > 1 else None
    fit = FitOptions(
        runtime=machine,
        length=trained_length(options.like) if options.like else None,
        checkpoint=options.checkpoint,
        rank=rank if processes.count() == 1 else processes.rank(),
    )
    seeds = seeds_of(options.params, options.model)
    score = train(kind, config, encoded, fit, options.out, options.predictions, seeds)
    if score is None:
        return
    if options.metrics and options.slices:
        write_metrics(options.model, score, encoded, options.metrics, options.slices)
    if options.curve:
        curve = read_json(options.out / "fit.json")["curve"]
        write_json(options.curve, [{"model": options.model, **point} for point in curve])


if __name__ == "__main__":
    run(main)
