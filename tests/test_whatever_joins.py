"""From raw files to scores where next to nothing joins: every stage must come through, whatever is unknown.

`bare` is the simulated world without what a run can do without. `real` are the first rows of the competition's files
(in the folder that OUTBRAIN_RAW names), whose displays of test have no event and whose documents few ads.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.files import write_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.encode import EncodeConfig, encode_split
from pipeline.features import dkt, mf, vae_cf
from pipeline.features.base import write_group
from pipeline.features.smoothing import SmoothingConfig
from pipeline.ingest.build import ingest
from pipeline.ingest.config import IngestConfig
from pipeline.models.base import load_kind
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.impressions import PARTS
from pipeline.schemas.raw import RAW_FILES
from pipeline.split import SplitConfig, SplitName, write_split
from pipeline.views import ViewsConfig, write_views

EMPTY = ("page_views", "document_views", "documents_categories", "documents_topics", "documents_entities")
#: What is fitted of the groups that learn.
TINY: dict[str, Any] = {
    "mf": mf.Config(dim=4, sweeps=1, nightly_sweeps=1, least=2),
    "vae_cf": vae_cf.Config(dim=4, hidden=8, epochs=1, least=2),
    "dkt": dkt.Config(dim=4, hidden=8, length=5, least=2),
}
MODELS: dict[str, dict[str, Any]] = {
    "lightgbm": {"rounds": 3, "evaluate_every": 1},
    "lr": {"epochs": 1},
    "deepfm": {"epochs": 1, "embedding_dim": 4, "hidden": (8,)},
    "mf": {},
    "vae_cf": {},
    "dkt": {},
}


def bare(tables: Path, folder: Path) -> None:
    shutil.copytree(tables, folder)
    for name in EMPTY:
        path = folder / f"{name}.parquet"
        pq.write_table(pq.read_table(path).slice(0, 0), path)


def real(engine: DuckDBEngine, folder: Path) -> None:
    found = {name: Path(os.environ["OUTBRAIN_RAW"]) / f"{name}.csv.zip" for name in RAW_FILES}
    files = {name: str(path) for name, path in found.items() if path.exists()}
    write_json(folder.parent / "manifest.json", {"source": "directory", "page_views": "full", "files": files})
    ingest(folder.parent, folder, folder.parent / "ingest.json", engine, IngestConfig())


@pytest.fixture(
    scope="module",
    params=[
        "bare",
        pytest.param(
            "real", marks=pytest.mark.skipif("OUTBRAIN_RAW" not in os.environ, reason="OUTBRAIN_RAW is unset")
        ),
    ],
)
def world(
    request: pytest.FixtureRequest,
    tables: Path,
    runtime: RuntimeConfig,
    group_names: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[SplitName, Encoded]:
    """The splits, encoded, with all groups in them; of `bare`, whose two are alike, one."""
    folder = tmp_path_factory.mktemp(request.param)
    names: tuple[SplitName, ...] = ("validation",) if request.param == "bare" else get_args(SplitName)
    with DuckDBEngine(runtime) as engine:
        bare(tables, folder / "tables") if request.param == "bare" else real(engine, folder / "tables")
        for name in names:
            split, views, features = (folder / name / stage for stage in ("split", "views", "features"))
            write_split(engine, folder / "tables", name, SplitConfig(), split)
            write_views(engine, folder / "tables", split, ViewsConfig(), views)
            for group in group_names:
                learning = TINY.get(group)
                write_group(
                    engine, group, folder / "tables", split, views, SmoothingConfig(), features / group, learning
                )
            encode_split(
                engine, split, features, group_names, EncodeConfig(min_count=3, buckets=8), folder / name / "out"
            )
    return {name: Encoded(folder / name / "out") for name in names}


@pytest.mark.parametrize("model", MODELS)
def test_models_fit_and_score(world: dict[SplitName, Encoded], runtime: RuntimeConfig, model: str) -> None:
    kind, options = load_kind(model), FitOptions(runtime=replace(runtime, threads=1))
    for split, encoded in world.items():
        length = {"validation": None, "submission": 1.0}[split]
        built = kind.build(kind.config(**MODELS[model]))
        built.fit(encoded, replace(options, length=length))
        for part in PARTS:
            score = built.predict(encoded.part(part))
            assert score.shape == (encoded.part(part).rows,)
            assert np.isfinite(score).all()
