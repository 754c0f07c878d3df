"""The help of each benchmark begins with the command that starts it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = [path for path in sorted((ROOT / "benchmarks").rglob("*.py")) if "ArgumentParser(" in path.read_text()]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_help_names_the_command(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    (arguments,) = re.findall(r"ArgumentParser\(([^)]*)\)", path.read_text())
    assert f'prog="python -m {module}"' in arguments
