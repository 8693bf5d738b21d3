"""Fill in what README.md quotes: the summary of the last run, the results of the benchmarks, and the tree with each
file's own first line."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {
    "Makefile": "`make repro`, `make test` and what they need",
    "data/input/README.md": "where Kaggle's own files may be put",
    "dvc.yaml": "the stages: commands, dependencies, outputs",
    "params.yaml": "what a run is made of",
    "pyproject.toml": "lint, types and tests",
    "requirements-spark.txt": "PySpark, for those who run on it",
    "requirements.in": "what the project uses",
    "requirements.lock": "the same, with every version pinned",
}


def first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def tree(files: list[str]) -> str:
    """The files as an indented tree, folders last, each with a line on what it is for."""
    told = {name: PLAIN.get(name) or first_line(ROOT / name) for name in files if name in PLAIN or name.endswith(".py")}
    lines: list[str] = []
    seen: set[str] = set()
    for name in sorted((n for n in told if told[n]), key=lambda n: ("/" in n, n.rpartition("/")[0], n)):
        folders = name.split("/")[:-1]
        for depth in range(len(folders)):
            folder = "/".join(folders[: depth + 1])
            if folder not in seen:
                seen.add(folder)
                lines.append(f"{'  ' * depth}{folders[depth]}/")
        label = f"{'  ' * len(folders)}{name.rpartition('/')[2]}"
        lines.append(f"{label:<34} {told[name]}")
    return "\n".join(lines)


def first_table(path: Path) -> str:
    """The first table of a Markdown file."""
    found = re.search(r"(^\|.*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{path}: expected a table"
    return found[0].strip()


def filled(readme: str, summary: str, files: list[str]) -> str:
    """README.md with its quoted parts replaced; they stand between markers."""
    for result in sorted((ROOT / "benchmarks/results").glob("*.md")):
        name, text = result.stem, first_table(result)
        pattern = re.compile(rf"(<!-- {name} -->\n\n).*?(\n\n<!-- /{name} -->)", re.DOTALL)
        readme = pattern.sub(lambda match, text=text: f"{match[1]}{text}{match[2]}", readme)
    for name, text in {"summary": summary.strip(), "tree": tree(files)}.items():
        pattern = re.compile(rf"(<!-- {name} -->\n```\n).*?(\n```\n<!-- /{name} -->)", re.DOTALL)
        readme = pattern.sub(lambda match, text=text: f"{match[1]}{text}{match[2]}", readme)
    return readme


def tracked_files() -> list[str]:
    """All files of the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


if __name__ == "__main__":
    path = ROOT / "README.md"
    summary = (ROOT / "reports/summary.txt").read_text(encoding="utf-8")
    path.write_text(filled(path.read_text(encoding="utf-8"), summary, tracked_files()), encoding="utf-8")
