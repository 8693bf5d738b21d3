"""The folder tree, the import graph and the DVC graph are the same picture; and what every module owes its reader."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grimp
import pytest
import yaml

from pipeline.core.config import read_yaml
from pipeline.schemas.features import HINDSIGHT, SCOPES
from tests.discovery import feature_groups, model_kinds, stage_names

ROOT = Path(__file__).resolve().parents[1]

#: From the top: a module may import from the layers below its own, and from no other package of its layer.
LAYERS = (
    {"stages"},
    {"report_page", "out_of_fold"},
    {
        "training",
        "leaves",
        "tuning",
        "blending",
        "submission",
        "submit",
        "report",
        "encode",
        "split",
        "views",
        "ingest",
        "sources",
        "features",
    },
    {"models", "collaborative"},
    {"nn", "factorization", "trees", "choice", "kaggle_client"},
    {"schemas"},
    {"metrics"},
    {"core"},
)
#: Modules of a package of equals that all of its modules may import.
SHARED = {"models": {"base"}, "features": {"base", "displays", "known", "smoothing", "subjects", "vectors"}}
#: Command line options that name a module which the stage imports by that name.
DYNAMIC = {"--group": "features", "--model": "models"}
#: Command line options that name an entry of a section of params.yaml, which alone the stage reads.
OWN_SECTION = {"--group": "collaborative", "--model": "models"}


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("pipeline", include_external_packages=True, cache_dir=None)


def modules() -> list[str]:
    return sorted(module for module in graph().modules if module.split(".")[0] == "pipeline")


def file_of(module: str) -> str:
    path = Path(*module.split("."))
    return (path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")).as_posix()


# --- imports ------------------------------------------------------------------------------------------------------


def test_imports_go_one_way() -> None:
    top = {module.split(".")[1] for module in modules() if module != "pipeline"}
    assert top == set().union(*LAYERS), "a new module needs its place among the layers"
    layers = [grimp.Layer(*layer, independent=True) for layer in LAYERS]
    illegal = graph().find_illegal_dependencies_for_layers(layers=layers, containers={"pipeline"})
    found = {f"{d.importer} imports {d.imported}": d.routes for d in illegal}
    assert found == {}


@pytest.mark.parametrize("package", SHARED)
def test_equals_do_not_import_each_other(package: str) -> None:
    equals = {m for m in modules() if m.startswith(f"pipeline.{package}.")}
    shared = {f"pipeline.{package}.{name}" for name in SHARED[package]}
    assert len(equals - shared) >= 3
    found = [(m, sorted(graph().find_modules_directly_imported_by(m) & (equals - shared))) for m in sorted(equals)]
    assert [(module, imported) for module, imported in found if imported] == []


def test_only_networks_bring_torch() -> None:
    bring = {module for module in modules() if "torch" in graph().find_upstream_modules(module)}
    assert bring, "the graph does not know of torch"
    learners = tuple(f"pipeline.features.{name}" for name, group in feature_groups().items() if group.learner)
    allowed = ("pipeline.nn.", "pipeline.models.", "pipeline.collaborative.", *learners)
    assert [m for m in sorted(bring) if not m.startswith(allowed)] == []


def test_packages_do_nothing_when_they_are_imported() -> None:
    packages = list((ROOT / "pipeline").rglob("__init__.py"))
    assert len(packages) >= 8
    for path in packages:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        exports = [n for n in body if not isinstance(n, (ast.Import, ast.ImportFrom)) and not _is_text(n)]
        assert [ast.unparse(node) for node in exports if "__all__" not in ast.unparse(node)] == [], path


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


# --- stages of dvc.yaml -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of dvc.yaml, its matrix and variables resolved."""

    name: str
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: frozenset[str]

    @property
    def module(self) -> str:
        found = re.search(r"-m (pipeline\.stages\.\w+)", self.command)
        assert found, self.command
        return found[1]

    @property
    def runs_code(self) -> bool:
        """What only copies files does not."""
        return "python" in self.command

    @property
    def code(self) -> list[str]:
        return [dep for dep in self.deps if dep == "pipeline" or dep.startswith("pipeline/")]

    def imported(self) -> set[str]:
        """The files that the command imports, but for the command line itself: it changes no result."""
        if not self.runs_code:
            return set()
        entries = {self.module}
        for option, package in DYNAMIC.items():
            found = re.search(rf"{option} (\w+)", self.command)
            if found and package == "models":
                entries.add(f"pipeline.models.{read_yaml(ROOT / 'params.yaml')['models'][found[1]]['kind']}")
            elif found:
                entries.add(f"pipeline.{package}.{found[1]}")
        if self.name == "check":  # reads what every group and every kind of model may hold
            entries |= {f"pipeline.features.{name}" for name in feature_groups()}
            entries |= {f"pipeline.models.{name}" for name in model_kinds()}
        every = entries.union(*(graph().find_upstream_modules(entry) for entry in entries))
        ours = {module for module in every if module.startswith("pipeline.")} - {"pipeline.stages.command"}
        return {file_of(module) for module in ours if not file_of(module).endswith("__init__.py")}


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """All stages, as DVC itself resolves them, in a folder of their own."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("dvc")
    shutil.copy(ROOT / "dvc.yaml", folder / "dvc.yaml")
    params = read_yaml(ROOT / "params.yaml")
    params["out_of_fold"]["models"] = ["lr", "lr_crosses", "fm", "ffm"]  # all that can stand there
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    found = {}
    with Repo.init(str(folder), no_scm=True) as repo:
        for stage in repo.index.stages:
            deps, params = [], set()
            for dep in stage.deps:
                params |= set(getattr(dep, "params", ()))
                deps += [] if hasattr(dep, "params") else [dep.def_path]
            outs = tuple(out.def_path for out in stage.outs)
            found[stage.name] = Stage(stage.name, stage.cmd, tuple(deps), outs, frozenset(params))
    assert len(found) > 20
    return found


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


def test_stages_depend_on_all_that_they_import(stages: dict[str, Stage]) -> None:
    missing = {
        name: sorted(file for file in stage.imported() if not any(covers(dep, file) for dep in stage.code))
        for name, stage in stages.items()
    }
    assert {name: files for name, files in missing.items() if files} == {}


def test_stages_depend_on_nothing_that_they_do_not_import(stages: dict[str, Stage]) -> None:
    """All rows of a matrix have the same deps, so it is enough that one of those that list a dep imports it."""
    listed: dict[tuple[str, str], bool] = {}
    for name, stage in stages.items():
        imported = stage.imported()
        for dep in stage.code:
            key = (name.split("@")[0], dep)
            listed[key] = listed.get(key, False) or any(covers(dep, file) for file in imported)
    assert [key for key, needed in listed.items() if not needed] == []


def test_only_the_check_depends_on_the_whole_package(stages: dict[str, Stage]) -> None:
    """Such a dep runs a stage again at every change; the check takes seconds, and its output is constant."""
    whole = {"pipeline", *(f"pipeline/{name}" for name in ("features", "models", "schemas", "stages"))}
    assert [name for name, stage in stages.items() if whole & set(stage.code)] in ([], ["check"])


def test_no_stage_has_studies_or_checkpoints_as_an_output(stages: dict[str, Stage]) -> None:
    """DVC removes outputs before a stage runs: what nights of tuning have found would be gone."""
    kept = [word for stage in stages.values() for word in re.findall(r"--(?:study|checkpoint) (\S+)", stage.command)]
    assert {path.split("/")[0] for path in kept} == {"studies", "checkpoints"}
    outs = {out for stage in stages.values() for out in stage.outs}
    assert {path for path in kept for out in outs if covers(out, path) or covers(path, out)} == set()
    assert {out for out in outs if out.split("/")[0] in ("studies", "checkpoints")} == set()


def test_deps_exist(stages: dict[str, Stage]) -> None:
    """A file that was renamed would else be noticed by the next run only."""
    assert {dep for stage in stages.values() for dep in stage.code if not (ROOT / dep).exists()} == set()


def sections_read(module: str) -> Iterator[str]:
    """The sections of params.yaml that a stage's module reads, but for `runtime`, which changes no result."""
    for node in ast.walk(ast.parse((ROOT / file_of(module)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "section" and isinstance(node.args[1], ast.Constant):
                yield str(node.args[1].value)
            elif called == "feature_names":
                yield from ("features", "collaborative.groups")
            elif called == "learner_config":
                yield "collaborative"
            elif called == "leaks_allowed":
                yield "leaks"
            elif called == "model_config":
                yield "models"


def test_stages_track_the_parameters_that_they_read(stages: dict[str, Stage]) -> None:
    for name, stage in stages.items():
        if name == "check":
            assert "params.yaml" in stage.deps
            continue
        own = {
            section: f"{section}.{found[1]}"
            for option, section in OWN_SECTION.items()
            if (found := re.search(rf"{option} (\w+)", stage.command))
        }
        read = {own.get(section, section) for section in sections_read(stage.module)} if stage.runs_code else set()
        assert stage.params == read, name
    assert stages["raw"].params == {"data", "simulation"}, "the test finds what is read"


def test_every_group_and_model_of_the_parameters_has_its_stages(stages: dict[str, Stage]) -> None:
    params = read_yaml(ROOT / "params.yaml")
    commands = [stage.command for stage in stages.values()]
    for split in ("validation", "submission"):
        groups = {
            found[1] for c in commands if f"data/splits/{split}" in c and (found := re.search(r"--group (\w+)", c))
        }
        assert groups == {*params["features"], *params["collaborative"]["groups"]}, split
        models = {
            found[1]
            for c in commands
            if f"--predictions artifacts/predictions/{split}" in c and (found := re.search(r"--model (\w+)", c))
        }
        assert models == set(params["models"]), split
    assert set(params["blend"]["members"]) <= set(params["models"])


# --- what every module owes its reader ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", stage_names())
def test_help_works(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(f"pipeline.stages.{name}", run_name="__main__")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    documentation = ast.get_docstring(
        ast.parse((ROOT / "pipeline" / "stages" / f"{name}.py").read_text(encoding="utf-8"))
    )
    assert documentation
    assert documentation in shown
    assert "--params" in shown


def public_functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{prefix}{node.name}.")
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node


def is_exempt(file: Path, node: ast.FunctionDef) -> bool:
    """Small functions, properties, and what implements a contract that stands elsewhere.

    `main` of a stage is told by its module, `build` of a group or a model by its GROUP or Config, and the methods of a
    model and a combination by models.base.Model, blending.ways.Combination and torch.nn.Module.
    """
    small = (node.end_lineno or 0) - node.lineno < 5
    contract = {
        "stages": {"main"},
        "features": {"build"},
        "models": {"build", "fit", "predict", "save", "load", "forward"},
        "blending": {"score", "explain"},
        "nn": {"fit", "predict", "save", "load", "forward"},
        "factorization": {"fit", "predict", "save", "load", "learn", "score"},
    }
    is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
    return small or is_property or node.name in contract.get(file.parent.name, ())


def test_modules_and_public_functions_are_documented() -> None:
    missing = []
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(ROOT)
        if path.name != "__init__.py" and not ast.get_docstring(tree):
            missing.append(str(where))
        for name, node in public_functions(tree.body):
            if not ast.get_docstring(node) and not is_exempt(where, node):
                missing.append(f"{where}: {name}")
    assert missing == []


def test_the_readme_names_every_stage_group_and_model() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    dvc_stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    names = {*dvc_stages, *stage_names(), *feature_groups(), *model_kinds()}
    assert len(names) > 20
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", text)) == []


#: Folders of some machine at the head of a path. Not: data/tmp, ~/work, {folder}/home, https://host/home.
MACHINE = re.compile(r"(?<![\w.~}\])$*-])/(?:work|tmp|root|home|Users|mnt|media|private|scratch)/")
#: A package index of one's own. PyPI and PyTorch's own are public.
INDEX = re.compile(
    r"index-ur[l]|find-link[s]|INDEX_UR[L]\s*[:=]\s*\S|//(?!pypi\.org|files\.pythonhosted\.org|download\.pytorch\.org)"
    r"[\w.-]*(?:pyp[i]|artifactor[y]|nexu[s]|mirro[r]|registr[y])[\w.:-]*"
)


def test_no_file_tells_of_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert Path(__file__).resolve() in files
    found = []
    for path in files:
        if not path.is_file() or path.is_symlink() or b"\0" in path.read_bytes()[:8192]:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            match = MACHINE.search(line) or INDEX.search(line)
            if match:
                found.append(
                    f"{path.relative_to(ROOT)}:{number}: {line[max(0, match.start() - 20) : match.end() + 40]}"
                )
    assert found == []


@pytest.mark.parametrize(
    ("line", "tells"),
    [
        ("see {}work{}main", True),
        ('"{}tmp{}x.csv"', True),
        ("path={}home{}someone", True),
        ("data{}tmp{}x", False),
        ("{{folder}}{}tmp{}", False),
        ("https:{0}{0}example.org{0}home{0}x", False),
        ("--extra-index{1}url https:{0}{0}example.org", True),
        ("https:{0}{0}pypi.example.org{0}simple", True),
        ("https:{0}{0}pypi.org{0}simple", False),
        ("PIP_EXTRA_INDEX{2}URL can name an index", False),
        ("PIP_EXTRA_INDEX{2}URL=x", True),
    ],
)
def test_the_patterns_find_what_they_should(line: str, tells: bool) -> None:
    text = line.format("/", "/", "_") if "{}" in line else line.format("/", "-", "_")
    assert bool(MACHINE.search(text) or INDEX.search(text)) == tells, text


def test_every_member_of_the_blend_is_named_wherever_it_must(stages: dict[str, Stage]) -> None:
    members = read_yaml(ROOT / "params.yaml")["blend"]["members"]
    plots = str(read_yaml(ROOT / "dvc.yaml")["plots"])
    for member in members:
        for split in ("validation", "submission"):
            assert f"artifacts/predictions/{split}/{member}.parquet" in stages[f"member@{member}"].deps, member
    for member in {*members, *re.findall(r"--also ([\w ]+)", stages["report"].command)[0].split()}:
        for path in (f"metrics/{member}.json", f"plots/slices/{member}.json"):
            assert path in stages["report"].deps, member
        assert f"submission@{member}" in stages, member
        assert f"plots/curves/{member}.json" in plots, member
        assert f"plots/slices/{member}.json" in plots, member


def test_the_model_without_leaks_is_its_twin_but_for_its_scopes(stages: dict[str, Stage]) -> None:
    """What the report tells of leaks compares two models that must differ in nothing else."""
    params = read_yaml(ROOT / "params.yaml")
    leaky, causal = (re.findall(rf"--{name} (\w+)", stages["report"].command)[0] for name in ("leaky", "causal"))
    scopes = params["models"][causal].pop("scopes")
    assert params["models"][causal] == params["models"][leaky]
    assert set(scopes) == set(SCOPES) - set(HINDSIGHT)
    assert causal not in params["blend"]["members"]
    for path in (f"artifacts/predictions/submission/{causal}.parquet", f"metrics/{causal}.json"):
        assert path in stages["report"].deps
