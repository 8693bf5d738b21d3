"""Whether the leaves of boosted trees, as fields, help a field-aware factorization machine (winners disagreed).

    python -m benchmarks.leaves --run FOLDER --trees 10 20

Reads the run that stands in a folder, whose world must be simulated: the labels of clicks_test are known then. The
trees read what the section `leaves` of params.yaml says, and once more with click rates. FFM is fitted with and without
their leaves as in the pipeline: on validation until it is best, then on all of train for as long.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, machine, table
from pipeline.core.config import section
from pipeline.core.runtime import runtime
from pipeline.leaves import GROUP, LeavesConfig, write_leaves
from pipeline.metrics import Judged, standard_error, weighted_mean
from pipeline.models.base import Kind, model_config
from pipeline.report import test_labels
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.predictions import labels_of

MODEL = "ffm"
RATES = ("rates", "crosses", "tastes")
SPLITS = ("validation", "submission")
RESULT = ROOT / "benchmarks" / "results" / "leaves.md"


def variants(plain: LeavesConfig, trees: list[int]) -> Iterator[tuple[str, LeavesConfig]]:
    yield "no leaves", replace(plain, trees=0)
    for count in trees:
        yield f"{count} trees", replace(plain, trees=count)
        yield f"{count} trees that read click rates", replace(plain, trees=count, groups=(*plain.groups, *RATES))


def encoded_with(run: Path, leaves: LeavesConfig, options: FitOptions, scratch: Path) -> dict[str, Encoded]:
    """Both splits with the leaves as further fields."""
    found = {}
    for split in SPLITS:
        write_leaves(Encoded(run / "data/encoded" / split), leaves, options, scratch / split)
        found[split] = Encoded(run / "data/encoded" / split, scratch / split)
    return found


def fitted(kind: Kind, config: Any, splits: dict[str, Encoded], options: FitOptions, truth: Path) -> list[Judged]:
    """Validation and test as the model ranks them."""
    length, judged = None, []
    for split, encoded in splits.items():
        model, target = kind.build(config), encoded.part("target")
        length = model.fit(encoded, replace(options, length=length)).length
        known = test_labels(truth, target) if split == SPLITS[1] else None
        judged.append(Judged.scaled(model.predict(target), known[0] if known else labels_of(target)))
    return judged


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--run", type=Path, default=ROOT, help="folder in which `dvc repro` ran")
    command.add_argument("--trees", type=int, nargs="+", default=[10, 20])
    command.add_argument("--out", type=Path, default=RESULT)
    given = command.parse_args()
    params = ROOT / "params.yaml"
    target = Encoded(given.run / "data/encoded" / SPLITS[1]).part("target")
    known = test_labels(given.run / "data/truth", target)
    if known is None:
        sys.exit("data/truth: the labels of clicks_test are not known; run `dvc repro` with data.source: simulated")
    of_validation = labels_of(Encoded(given.run / "data/encoded" / SPLITS[0]).part("target")).slices["future"]
    future = known[0].slices["future"]
    kind, config = model_config(params, MODEL)
    options, rows, plain = FitOptions(runtime=runtime(params)), [], None
    for name, leaves in variants(section(params, "leaves", LeavesConfig), given.trees):
        with tempfile.TemporaryDirectory() as scratch:
            start = time.perf_counter()
            splits = encoded_with(given.run, leaves, options, Path(scratch))
            grown = time.perf_counter()
            reads = replace(config, groups=(*config.groups, GROUP)) if leaves.trees else config
            validation, test = fitted(kind, reads, splits, options, given.run / "data/truth")
            took = time.perf_counter() - grown
        plain = plain or test
        row = [name, f"{grown - start:.0f}", f"{took:.0f}", f"{weighted_mean(validation.gain, of_validation):.5f}"]
        row += [f"{weighted_mean(test.gain, future):.5f}", f"{weighted_mean(test.loss, future):.5f}"]
        row += [f"{weighted_mean(test.gain - plain.gain, future):+.5f}"]
        rows.append([*row, f"{standard_error(test.gain - plain.gain, future):.5f}"])
        print(*rows[-1], flush=True)
    head = ["ffm with", "leaves: s", "fits: s", "MAP@12 on validation", "on test", "loss on test", "ahead", "error"]
    text = (
        f"# Leaves as fields\n\nWritten by `python -m benchmarks.leaves`, {target.displays:,} displays of clicks_test: "
        f"{machine(('lightgbm', 'numba', 'numpy'))}.\n\n{table(head, rows)}"
    )
    given.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
