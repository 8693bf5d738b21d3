"""Make the raw files available from the source that the parameters name, and write down where each of them lies."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.config import section
from pipeline.core.files import write_json
from pipeline.sources.base import DataConfig, Source, wanted
from pipeline.sources.simulated import SimulatedSource, SimulationConfig
from pipeline.stages.command import parser, run


def _source(data: DataConfig, params: Path, out: Path, truth: Path, downloads: Path) -> Source:
    if data.source == "simulated":
        return SimulatedSource(section(params, "simulation", SimulationConfig), out, truth)
    if data.source == "kaggle":
        from pipeline.sources.kaggle import KaggleSource

        return KaggleSource(downloads, data.page_views)
    from pipeline.sources.directory import DirectorySource

    return DirectorySource(Path(data.directory), data.page_views)


def main(arguments: list[str]) -> None:
    command = parser(
        __doc__,
        out="folder of manifest.json and, if they are simulated, the raw files (output)",
        truth="folder of what is known of a simulated world's clicks (output)",
        downloads="folder in which downloads from Kaggle are kept from run to run",
    )
    options = command.parse_args(arguments)
    data = section(options.params, "data", DataConfig)
    options.out.mkdir(parents=True, exist_ok=True)
    options.truth.mkdir(parents=True, exist_ok=True)
    files = _source(data, options.params, options.out, options.truth, options.downloads).prepare()
    if not (options.truth / "truth.json").exists():
        write_json(options.truth / "truth.json", {"known": False})
    manifest = {
        "source": data.source,
        "page_views": data.page_views,
        "files": {name: str(files[name]) for name in wanted(data.page_views) if name in files},
    }
    write_json(options.out / "manifest.json", manifest)


if __name__ == "__main__":
    run(main)
