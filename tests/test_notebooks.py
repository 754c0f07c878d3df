"""Each notebook runs from the first cell to the last with reduced sizes, and its committed outputs are complete."""

import ast
import contextlib
import io
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import pytest
from IPython.display import Image
from nbclient.exceptions import CellExecutionError

from notebooks.execute import FOLDER, PARAMETERS, clean, execute, main
from protlm import cli, train
from tests.tiny import TINY

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICK: dict[str, dict[str, Any]] = {
    "1_train": {"STEPS": 4, "OPTIONS": [*TINY, "trainer.limit_val_batches=2", "trainer.limit_test_batches=2"]},
    "2_embed": {"PER_FAMILY": 4, "LOCATED": 75, "CHAINS": 25},
    "3_variants": {"RESAMPLES": 100},
    "4_favor": {"DRAWS": 4, "REPEATS": 1, "PROTEINS": 40},
    "5_labels": {"LOCATED": 135, "CHAINS": 25, "MEASURED": 96},
}
"""Parameters with which a notebook takes seconds."""
ABSOLUTE = re.compile(r"(?<![\w.~<])/(home|root|tmp|usr|work|var|private|Users|opt|mnt)/|\b[A-Z]:\\")


def texts(cell: Any) -> str:
    """Everything that a cell has printed or displayed as text."""
    shown = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(shown)


def assert_complete(notebook: Any) -> None:
    """All cells have run in order without errors or warnings, and the last has an output."""
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
        assert not re.search(r"Warning\b|\r", texts(cell))
    assert cells[-1].outputs


def pictures(notebook: Any) -> int:
    return sum("image/png" in out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", ()))


SUBPROCESS = subprocess.run


def module_here(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run`, with `python -m protlm` and `python -m protlm.train` in this process."""
    if command[0] != sys.executable:
        return SUBPROCESS(command, **options)
    module, text, code = command[2], io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        patch.setattr(sys, "argv", command[2:])
        try:
            {"protlm": cli.main, "protlm.train": train.main}[module]()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(command, code, text.getvalue())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[tuple[str, Any]]]:
    """Runs the code cells of a notebook in this process; gives the output and the displayed value of each."""

    def run_cells(path: Path, parameters: dict[str, Any]) -> list[tuple[str, Any]]:
        monkeypatch.chdir(FOLDER)
        monkeypatch.setattr(subprocess, "run", module_here)
        names: dict[str, Any] = {}
        shown = []
        with matplotlib.rc_context({"backend": "Agg"}):
            import matplotlib.pyplot as plt

            monkeypatch.setattr(plt, "show", lambda: names.update(drawn=plt.gcf()))
            for cell in nbformat.read(path, as_version=4).cells:
                if cell.cell_type == "code":
                    tree, value = ast.parse(cell.source), None
                    names.pop("drawn", None)
                    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
                    exec(compile(tree, path.name, "exec"), names)
                    if isinstance(last, ast.Expr):
                        value = eval(compile(ast.Expression(last.value), path.name, "eval"), names)
                    if PARAMETERS in cell.metadata.get("tags", ()):
                        assert parameters.keys() <= names.keys()
                        names |= parameters
                    out, err = capsys.readouterr()
                    assert not err
                    shown.append((out, names.get("drawn", value)))
            plt.close("all")
        return shown

    return run_cells


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::protlm.errors.ProtlmWarning")  # the quick model has few positions
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(run, path: Path, model_folder: Path, tmp_path: Path) -> None:
    parameters = dict(QUICK[path.stem])
    if path.stem != "1_train":
        parameters["MODEL"] = str(model_folder)
    if path.stem == "1_train":
        parameters["RUN"] = str(tmp_path / "run")
    if path.stem == "3_variants":
        scans = tmp_path / "dms"
        scans.mkdir()
        for name in ("grb2-abundance.csv", "wt.fasta"):
            shutil.copy(FOLDER.parent / "data" / "dms" / name, scans)
        parameters["ASSAYS"] = str(scans)
    shown = run(path, parameters)
    images = [value for _, value in shown if isinstance(value, Image)]
    assert images
    assert all(image.data.startswith(b"\x89PNG") for image in images)
    assert any(shown[-1])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert_complete(notebook)
    assert pictures(notebook) >= 1
    for cell in notebook.cells:
        assert not ABSOLUTE.search(cell.source)
        assert cell.cell_type != "code" or not ABSOLUTE.search(texts(cell))
    before = nbformat.writes(notebook)
    clean(notebook)
    assert nbformat.writes(notebook) == before


def test_every_notebook_is_tested() -> None:
    assert [path.stem for path in NOTEBOOKS] == list(QUICK)


def written(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.slow
def test_a_failing_cell_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "n.ipynb", "x = 1", "print(1 / (x - 1))")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(path)
    with pytest.raises(KeyError, match="no parameter y; there are x"):
        execute(path, {"y": 2})
    done = execute(path, {"x": 2})
    assert done.cells[-1].outputs[0].text == "1.0\n"


@pytest.mark.slow
def test_the_command_stores_outputs_or_leaves_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = written(tmp_path / "good.ipynb", "print(6 * 7)"), written(tmp_path / "bad.ipynb", "x = 1 / 0")
    before = good.read_bytes(), bad.read_bytes()
    monkeypatch.setattr("sys.argv", ["execute.py", str(good), str(tmp_path / "none.ipynb")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/none.ipynb: no such notebook\n"
    assert good.read_bytes() == before[0]  # nothing is executed before the arguments are checked
    monkeypatch.setattr("sys.argv", ["execute.py", str(good), str(bad)])
    with pytest.raises(CellExecutionError):
        main()
    assert nbformat.read(good, as_version=4).cells[0].outputs[0].text == "42\n"
    assert bad.read_bytes() == before[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.ipynb", "good.ipynb"]


@pytest.mark.slow
def test_a_file_of_short_proteins_can_be_trained_on(run, tmp_path: Path) -> None:
    """Without clusters or held-out families, and with no protein as long as the last cell prefers."""
    rng = random.Random(0)
    proteins = ("".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(8, 60))) for _ in range(60))
    (tmp_path / "own.fasta").write_text("".join(f">p{i}\n{protein}\n" for i, protein in enumerate(proteins)))
    own = {"FASTA": str(tmp_path / "own.fasta"), "CLUSTERS": None, "HELD_OUT": None, "RUN": str(tmp_path / "run")}
    assert "most likely" in run(NOTEBOOKS[0], QUICK["1_train"] | own)[-1][0]


@pytest.mark.slow
def test_outputs_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    path = written(tmp_path / "n.ipynb", "x = 1", f"print('{FOLDER.parent}/data/README.md')")
    first, second = execute(path), execute(path)
    assert first.cells[-1].outputs[0].text == "data/README.md\n"
    assert nbformat.writes(first) == nbformat.writes(second)


@pytest.mark.parametrize("path", ["/work/x", '"/home/me', "C:\\x", "in /tmp/a"])
def test_absolute_paths_are_found(path: str) -> None:
    assert ABSOLUTE.search(path)
    assert not ABSOLUTE.search("../runs/notebook data/tmp/x https://x.org/home/y")
