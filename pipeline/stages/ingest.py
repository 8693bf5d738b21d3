"""Turn the raw files into typed Parquet tables, and report what was found in them: rows, dirt, duplicates, orphans.

Reads CSV, zipped CSV (streamed, never unpacked to disk) and Parquet. A file that is damaged, or a value that the
competition's files cannot hold, stops the run with the file and the line; rows that contradict each other are dropped
only where the section `ingest` of the parameters allows it. Page views are read in one pass, whatever their size.
"""

from __future__ import annotations

from pipeline.core.config import section
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.runtime import runtime
from pipeline.ingest.build import ingest
from pipeline.ingest.config import IngestConfig
from pipeline.stages.command import parser, run

#: Of the engine, which spills; as much again may stand beside it: what was read ahead, and documents counted by day.
MEMORY_LIMIT = "2GB"


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        raw="folder of manifest.json, which says where the raw files lie (input)",
        out="folder of typed tables, NAME.parquet (output)",
        report="JSON: what was read, dropped, and does not join (output)",
    )
    options = command.parse_args(arguments)
    config = section(options.params, "ingest", IngestConfig)
    with DuckDBEngine(runtime(options.params).at_most(MEMORY_LIMIT)) as engine:
        ingest(options.raw, options.out, options.report, engine, config)


if __name__ == "__main__":
    run(main)
