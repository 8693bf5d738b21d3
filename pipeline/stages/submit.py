"""Send a submission to Kaggle and file its public and private score beside its validation scores.

The file is checked against clicks_test, and Kaggle is asked how many submissions are left today. --dry-run stops there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.core.progress import log
from pipeline.kaggle_client import Kaggle
from pipeline.stages.command import parser, run
from pipeline.submit import (
    Entry,
    check_csv,
    commit,
    digest,
    read_log,
    scored,
    send,
    submissions_left,
    wait_for_score,
    write_log,
)


def main(arguments: list[str]) -> None:
    command = parser(__doc__)
    add = command.add_argument
    add("--csv", type=Path, default=Path("submissions/blend.csv.gz"), help="what to send (default: %(default)s)")
    add("--metrics", type=Path, help="its validation scores (default: metrics/NAME.json of NAME.csv.gz)")
    add("--clicks-test", type=Path, default=Path("data/tables/clicks_test.parquet"), help="default: %(default)s")
    add("--manifest", type=Path, default=Path("data/raw/manifest.json"), help="says where the data is from")
    add("--log", type=Path, default=Path("submissions/log.csv"), help="default: %(default)s")
    add("--message", help="the description on Kaggle (default: name, commit and validation score)")
    add("--wait", type=float, default=600.0, help="seconds to wait for the score (default: %(default)s)")
    add("--again", action="store_true", help="send a file that the log says was sent before")
    add("--dry-run", action="store_true", help="check everything, send nothing")
    options = command.parse_args(arguments)
    source = read_json(options.manifest)["source"]
    if source == "simulated":
        raise UserError(f"{options.csv} is about a simulated world; Kaggle takes submissions for its own files only")
    entries = read_log(options.log)
    displays = check_csv(options.csv, options.clicks_test)
    log.info("%s: %d displays, as clicks_test has them", options.csv, displays)
    entry = _entry(options.csv, options.metrics)
    before = [e for e in entries if e.sha256 == entry.sha256]
    if before and not options.again:
        raise UserError(f"{options.csv} was sent before, as {before[-1].ref}; --again sends it once more")
    message = options.message or f"{entry.name} {entry.commit}, validation {entry.validation}"
    with Kaggle() as kaggle:
        left = submissions_left(kaggle)
        if left is not None:
            log.info("Kaggle takes %d more submissions today (UTC)", left)
        if left == 0:
            raise UserError("the daily limit of submissions is reached; Kaggle takes the next after 00:00 UTC")
        if options.dry_run:
            log.info("dry run: nothing was sent; it would be described as: %s", message)
            return
        entries = [scored(kaggle, e) if e.status == "pending" else e for e in entries]
        entry = replace(entry, ref=str(send(kaggle, options.csv, message)))
        write_log(options.log, [*entries, entry])
        entry = wait_for_score(kaggle, entry, options.wait)
        write_log(options.log, [*entries, entry])
    if entry.status == "pending":
        log.info("sent as %s; no score yet: the next submission fills it in", entry.ref)
    else:
        log.info("sent as %s: public %s, private %s", entry.ref, entry.public or "-", entry.private or "-")


def _entry(path: Path, metrics: Path | None) -> Entry:
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    values: dict[str, Any] = read_json(metrics or Path("metrics") / f"{name}.json")
    present, future, validation = (
        "" if values.get(key) is None else f"{values[key]:.5f}" for key in ("map12_present", "map12_future", "map12")
    )
    return Entry(name=name, commit=commit(), present=present, future=future, validation=validation, sha256=digest(path))


if __name__ == "__main__":
    run(main)
