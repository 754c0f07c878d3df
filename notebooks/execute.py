"""Executes notebooks and stores their outputs in them.

python notebooks/execute.py [NOTEBOOK ...]    # default: all in this folder
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from protlm.files import atomic_output

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
PARAMETERS = "parameters"
"""Tag of the cell whose values can be overridden."""
LONGEST = 1_200
"""Time limit in seconds of a cell and of the start of a kernel."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path, parameters: Mapping[str, object] | None = None) -> NotebookNode:
    """Executes a notebook in its folder and returns it with its outputs; the file is unchanged.

    Args:
        path: the notebook.
        parameters: name -> value, overriding those in the cell with the tag "parameters".

    Raises:
        KeyError: for a parameter that this cell does not set.
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        place = next(i for i, cell in enumerate(notebook.cells) if PARAMETERS in cell.metadata.get("tags", ()))
        known = {line.partition(" = ")[0] for line in notebook.cells[place].source.splitlines()}
        if unknown := sorted(parameters.keys() - known):
            raise KeyError(f"{path.name}: no parameter {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        values = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(values))
    where = {"metadata": {"path": str(path.parent)}}
    options: dict[str, Any] = {"timeout": LONGEST, "startup_timeout": LONGEST, "kernel_name": "python3"}
    options |= {"record_timing": False, "coalesce_streams": True}  # the same in every run
    with TemporaryDirectory() as folder:
        if os.name == "posix":  # sockets are files, so that kernels do not compete for ports
            options["config"] = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        NotebookClient(notebook, resources=where, **options).execute()
    clean(notebook)
    return notebook


def clean(notebook: NotebookNode) -> None:
    """Removes what depends on the machine: paths of this checkout, times, versions, random cell ids."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in ("tags",) if key in cell.metadata})
        for output in cell.get("outputs", ()):
            output.pop("metadata", None)
            if output.output_type != "stream":
                output.metadata = nbformat.from_dict({})
            if "text" in output:
                output.text = output.text.replace(f"{ROOT}/", "")


def main() -> None:
    """The command."""
    paths = [*map(Path, sys.argv[1:])] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        if not path.is_file():
            print(f"error: {path}: no such notebook", file=sys.stderr)
            sys.exit(2)
    for path in paths:
        notebook = execute(path.resolve())
        nbformat.validate(notebook)
        with atomic_output(path) as partial:
            nbformat.write(notebook, partial)
        print(f"{path}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells executed", flush=True)


if __name__ == "__main__":
    main()
