"""Run the notebooks' scripts and write them, with all outputs, as .ipynb beside them.

    python notebooks/refresh.py                  all notebooks
    python notebooks/refresh.py 01_the_data      some

The script (NAME.py) is the source; NAME.ipynb is made from it and never edited by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent


def scripts() -> list[Path]:
    return sorted(FOLDER.glob("[0-9]*.py"))


def execute(script: Path) -> NotebookNode:
    """The notebook of a script, run from top to bottom in the notebooks' folder; an error in a cell is raised."""
    notebook = jupytext.read(script)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # not a random one, so that a refresh changes only what has changed
    client = NotebookClient(
        notebook,
        timeout=None,
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    return client.execute()


def main(names: list[str]) -> None:
    for script in [FOLDER / f"{Path(name).stem}.py" for name in names] or scripts():
        nbformat.write(execute(script), script.with_suffix(".ipynb"))
        print(script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
