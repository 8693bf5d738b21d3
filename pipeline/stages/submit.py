"""Send a submission to Kaggle and file its public and private score beside its validation scores.

The file is checked against clicks_test, and Kaggle is asked how many submissions are left today. --dry-run stops there.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.core.progress import log
from pipeline.kaggle_client import Kaggle, KaggleError
from pipeline.report import TEST_DISPLAYS
from pipeline.stages.command import parser, run
from pipeline.submit import (
    Entry,
    check_csv,
    commit,
    digest,
    existing,
    read_log,
    refreshed,
    submissions_left,
    submit,
    upload,
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
    add("--force", action="store_true", help="send a file that is not about the competition's whole clicks_test")
    add("--dry-run", action="store_true", help="check everything, send nothing")
    options = command.parse_args(arguments)
    source = read_json(existing(options.manifest, "run `dvc repro` first, which makes what is to be sent"))["source"]
    if source == "simulated":
        raise UserError(f"{options.csv} is about a simulated world; Kaggle takes submissions for its own files only")
    entries = read_log(options.log)
    displays = check_csv(options.csv, options.clicks_test)
    log.info("%s: %d displays, as clicks_test has them", options.csv, displays)
    if displays != TEST_DISPLAYS and not options.force:
        raise UserError(
            f"{options.csv}: expected the {TEST_DISPLAYS} displays of the competition's clicks_test, found {displays}:"
            f" {options.clicks_test} is not of the whole files; --force sends it all the same, and uses up a try"
        )
    entry = _entry(options.csv, options.metrics)
    before = [e for e in entries if e.sha256 == entry.sha256]
    if before and not options.again:
        as_what = before[-1].ref or "nobody knows what: that run was cut off, look at your submissions on Kaggle"
        raise UserError(f"{options.csv} was sent before, as {as_what}; --again sends it once more")
    message = options.message or f"{entry.name} {entry.commit}, validation {entry.validation}"
    with Kaggle() as kaggle:
        left = submissions_left(kaggle)
        if left is None:
            log.info("Kaggle does not tell, before the first one, how many submissions it takes today")
        else:
            log.info("Kaggle takes %d more submissions today (UTC)", left)
        if options.dry_run:
            log.info("dry run: nothing was sent; it would be described as: %s", message)
            return
        entries = refreshed(kaggle, entries)
        entry = replace(entry, ref=_send(kaggle, options.csv, message, options.log, [*entries, entry]))
        write_log(options.log, [*entries, entry])
        entry = wait_for_score(kaggle, entry, options.wait)
        write_log(options.log, [*entries, entry])
    if entry.status == "pending":
        log.info("sent as %s; no score yet: the next submission fills it in", entry.ref)
    else:
        log.info("sent as %s: public %s, private %s", entry.ref, entry.public or "-", entry.private or "-")


def _send(kaggle: Kaggle, path: Path, message: str, log_file: Path, entries: list[Entry]) -> str:
    """Send a file, the last of the log's entries; its line stands in the log while nobody knows whether it arrives."""
    token = upload(kaggle, path)
    write_log(log_file, entries)
    try:
        return str(submit(kaggle, token, message))
    except KaggleError as error:
        if error.status is not None and error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            write_log(log_file, entries[:-1])
        raise


def _entry(path: Path, metrics: Path | None) -> Entry:
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    file = metrics or Path("metrics") / f"{name}.json"
    advice = f"it holds the validation scores of {path}; run `dvc repro`, or name their file by --metrics"
    values: dict[str, Any] = read_json(existing(file, advice))
    present, future, validation = (
        "" if values.get(key) is None else f"{values[key]:.5f}" for key in ("map12_present", "map12_future", "map12")
    )
    sha256, made_by = digest(path), commit(path)
    return Entry(name=name, commit=made_by, present=present, future=future, validation=validation, sha256=sha256)


if __name__ == "__main__":
    run(main)
