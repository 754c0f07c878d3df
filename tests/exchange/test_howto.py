"""The recipes for transformers in docs/howto/exchange.md run as printed, and print what is shown.

The model has the shape of the demo's and random weights, so that probabilities, the only output with decimals, differ.
"""

import re
from pathlib import Path

import pytest
import torch

from protlm.exchange.huggingface import export_huggingface
from protlm.performer import Performer, PerformerConfig
from tests.exchange.exported import build

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "exchange.md"
DEMO = PerformerConfig(
    33, 1, layers=4, heads=4, width=128, feed_forward=512, positions="both", max_length=1000, num_features=64
)
GUESS = re.compile(r"^\S+ 0\.\d+$", re.MULTILINE)
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")  # Trainer without a GPU
def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft", reason="peft, which trains adapters, is not installed")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        export_huggingface(Performer(DEMO).eval(), tmp_path / "hf")
    export_huggingface(build("causal relu"), tmp_path / "causal")
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 8
    for code, shown in blocks:
        exec(compile(code, str(PAGE), "exec"), {})
        printed = capsys.readouterr().out
        if GUESS.search(shown):
            assert len(GUESS.findall(printed)) == len(GUESS.findall(shown))
        elif shown:
            assert shown.strip() in printed
