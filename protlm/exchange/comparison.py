"""A model compared with what transformers computes from the folder that it was imported from or exported to."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from protlm import golden
from protlm.performer import Performer
from protlm.strict_json import dumps

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        text: for users.
        equal: whether all values agree; None if nothing was compared.
    """

    text: str
    equal: bool | None


def installed() -> bool:
    """Whether transformers is installed."""
    return importlib.util.find_spec("transformers") is not None


def compared(model: Performer, folder: Path, own_code: bool = False, adapter: Path | None = None) -> Comparison:
    """Compares golden values of a model, in evaluation mode, with those of transformers, within their tolerance.

    transformers runs in a process of its own, since it takes seconds to import and keeps copies of the code that it
    executes.

    Args:
        model: the model that the folder should contain.
        folder: for transformers.
        adapter: folder of an adapter of peft that the model contains as well, or None.
        own_code: whether the folder is one of `export_huggingface`, whose Python files may be executed.
    """
    if not installed():
        return Comparison("not compared with transformers, which is not installed", None)
    rows = {name: tokens.tolist() for name, tokens in golden.rows(model.config).items()}
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "values.safetensors"
        request = {"folder": str(folder.resolve()), "own_code": own_code, "output": str(output), "rows": rows}
        request["adapter"] = None if adapter is None else str(adapter.resolve())
        request["vocabulary"] = model.config.vocab_size
        done = subprocess.run(
            [sys.executable, "-m", "protlm.exchange.transformers_values"],
            input=dumps(request),
            env=_environment(scratch),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            return Comparison(f"not compared with transformers, which cannot load it ({reason})", None)
        with safe_open(output, "pt") as file:
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            version = (file.metadata() or {})["version"]
    # a classifier of transformers has no logits of residues
    ours = {name: value for name, value in golden.computed(model).items() if name in values}
    return _judged(golden.differences(ours, values), f"transformers {version}")


def _judged(found: list[golden.Difference], what: str) -> Comparison:
    tolerance = golden.TOLERANCES["float32"]
    odd = [one for one in found if not one.relative <= tolerance]
    if odd:
        worst = max(odd, key=lambda one: one.relative)
        where = f"{worst.quantity} of {worst.protein}, relative difference {worst.relative:.2g}"
        return Comparison(f"{what} computes other values: {where}; the tolerance is {tolerance:g}", False)
    largest = max(one.relative for one in found)
    return Comparison(f"{what} computes the same: largest relative difference {largest:.2g}", True)


def _environment(scratch: str) -> dict[str, str]:
    """Variables of the process: nothing is downloaded, copied into the home directory, or printed but errors."""
    path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": path, "HF_MODULES_CACHE": scratch}
