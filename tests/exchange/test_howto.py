"""The recipes for transformers in docs/howto/exchange.md run as printed, and print what is shown."""

import re
from pathlib import Path

import pytest

from protlm import bundled
from protlm.checkpoint import load
from protlm.exchange.huggingface import export_huggingface
from tests.exchange.exported import build

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "exchange.md"
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")  # Trainer without a GPU
def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft", reason="peft, which trains adapters, is not installed")
    export_huggingface(load(bundled.path()), tmp_path / "hf")
    export_huggingface(build("causal relu"), tmp_path / "causal")
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 7
    for code, shown in blocks:
        exec(compile(code, str(PAGE), "exec"), {})
        printed = capsys.readouterr().out
        if shown:
            assert shown.strip() in printed
