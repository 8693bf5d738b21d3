"""What the command lines of all stages share: arguments, logging, and how an error is told."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.core import processes
from pipeline.core.errors import UserError

_STARTED = time.perf_counter()


def parser(module_doc: str | None, **paths: str) -> argparse.ArgumentParser:
    """An argument parser with --params and one required path option for each keyword (name -> help)."""
    result = argparse.ArgumentParser(
        prog=f"python -m pipeline.stages.{Path(sys.argv[0]).stem}",
        description=module_doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters (default: params.yaml)")
    for name, text in paths.items():
        result.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True, help=text)
    return result


def run(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> None:
    """Run a stage: log lines and errors go to stderr; a UserError is told without a traceback, with exit status 1."""
    # OpenMP's threads must sleep, not spin, when they wait, or they take the cores from the threads that read the next
    # rows. It is read when torch or LightGBM is loaded, which no stage does before its main.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pipeline").setLevel(logging.WARNING if processes.rank() else logging.INFO)
    try:
        main(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    if arguments is None:
        _tell_costs()
        _leave()


def _tell_costs() -> None:
    """Log what the stage took: seconds from its first import on, those of all cores, and memory, mapped files too."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    logging.getLogger("pipeline").info(
        "took %.1f s, %.1f CPU s, %.2f GiB",
        time.perf_counter() - _STARTED,
        sum(usage.ru_utime + usage.ru_stime for usage in spent),
        max(usage.ru_maxrss for usage in spent) / (1 << 20),
    )


def _leave() -> None:
    """End the process at once: Python would first take apart all that Ibis or torch made, for a quarter of a second."""
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no other way to run them
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
