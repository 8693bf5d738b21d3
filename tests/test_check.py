"""The check of params.yaml before any data is read: what no stage would understand is named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import ParameterError
from pipeline.stages.check import check_params, check_stages

PARAMS = Path("params.yaml").read_text(encoding="utf-8")
STAGES = Path("dvc.yaml")


def edited(folder: Path, old: str, new: str) -> Path:
    """params.yaml with one text replaced."""
    assert old in PARAMS
    path = folder / "params.yaml"
    path.write_text(PARAMS.replace(old, new, 1), encoding="utf-8")
    return path


def test_what_is_committed_is_understood() -> None:
    check_params(Path("params.yaml"))
    check_stages(Path("params.yaml"), STAGES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("blend:\n", "blending: {}\nblend:\n", "unknown section 'blending'; did you mean blend?"),
        ("[ids, context, interests,", "[ids, contxt, interests,", "models.lr.groups: no 'contxt' is there; did you"),
        ("interests, affinity, leak]", "interests, scores]", "models.lr.groups: no 'scores' is there"),
        (
            "fields: [viewed_document,",
            "fields: [viewd_document,",
            "models.lr.fields: no 'viewd_document' is there; did",
        ),
        ("linear: [affinity]", "linear: [afinity]", "models.ffm.linear: no 'afinity' is there; did you mean affinity?"),
        ("- campaign_id x platform", "- campaign_id x plattform", "models.lr_crosses.crosses: no 'plattform' is there"),
        ("groups: [mf, vae_cf, dkt] ", "groups: [mf, dkt] ", "collaborative.vae_cf: not in collaborative.groups"),
        ("context: [leak,", "context: [leek,", "blend.context: no 'leek' is there; did you mean leak?"),
        (
            "members: [lr_crosses,",
            "members: [lr_cross,",
            "blend.members: no 'lr_cross' is there; did you mean lr_crosses?",
        ),
        ("models: [lr_crosses, ffm]", "models: [lr_cross]", "out_of_fold.models: no 'lr_cross' is there; did you"),
        ("models: [lr_crosses, ffm]", "models: [dcnv2]", "out_of_fold.models: dcnv2: a model of kind dcnv2 learns"),
        ("models: [lr_crosses, ffm]", "models: []", "out_of_fold: models: expected the name of one model or more"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message.replace("?", r"\?").replace("[", r"\[")):
        check_params(edited(tmp_path, old, new))


def test_fields_of_a_group_that_was_left_out_are_missed(tmp_path: Path) -> None:
    path = edited(tmp_path, "groups: [mf, vae_cf, dkt] ", "groups: [mf, dkt] ")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("  vae_cf: {dim: 16, beta: 0.2, anneal: 500}\n", ""), encoding="utf-8")
    with pytest.raises(ParameterError, match=r"models\.deepfm\.fields: no 'vae_cf_topic' is there"):
        check_params(path)


def test_fields_may_be_scores_leaves_and_buckets(tmp_path: Path) -> None:
    old = "fields: [viewed_document, viewed_source"
    path = edited(tmp_path, old, "fields: [leaf_0, views_before_bucket, viewed_source")
    grow = path.read_text(encoding="utf-8").replace("trees: 0", "trees: 1")
    path.write_text(grow.replace("viewed_document, viewed_source", "lr_crosses_score, viewed_source"), encoding="utf-8")
    with pytest.raises(ParameterError, match=r"models\.fm\.fields: no 'lr_crosses_score' is there"):
        check_params(path)
    path.write_text(grow, encoding="utf-8")
    check_params(path)


def test_a_model_that_no_stage_trains(tmp_path: Path) -> None:
    path = edited(tmp_path, "  ad_ctr: {kind: ad_ctr}", "  ad_ctr: {kind: ad_ctr}\n  other: {kind: ad_ctr}")
    check_params(path)
    with pytest.raises(ParameterError, match=r"models\.other: no stage of dvc\.yaml trains it"):
        check_stages(path, STAGES)


def test_a_member_that_no_stage_refits(tmp_path: Path) -> None:
    path = edited(tmp_path, "members: [lr_crosses,", "members: [mf, lr_crosses,")
    check_stages(path, STAGES)
    pipeline = tmp_path / "dvc.yaml"
    pipeline.write_text(STAGES.read_text(encoding="utf-8").replace("refit_choice:", "again_choice:"), encoding="utf-8")
    with pytest.raises(ParameterError, match=r"blend\.members: mf: no stage of .*dvc\.yaml refits it"):
        check_stages(path, pipeline)
