"""An exported folder loaded by transformers, compared with the model itself."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from protlm.errors import UserError
from protlm.exchange.huggingface import export_huggingface, sources
from protlm.inference.engine import encoded
from protlm.inference.fill import predict_masked
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import CLS, EOS, PAD, STANDARD
from tests.exchange.exported import KINDS, PROTEINS, SIZES, auto, build, load


def batch(kind: str, folder: Path) -> Any:
    texts = PROTEINS if kind.startswith("causal") else [*PROTEINS, "M<mask>TAYI<mask><mask>", "<mask>"]
    return load(AutoTokenizer, folder)(texts, padding=True, return_tensors="pt", padding_side="right")


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_representations_are_the_same_bit_for_bit(exported: dict[str, Path], kind: str) -> None:
    ours, theirs = build(kind), load(auto(kind), exported[kind])
    inputs = batch(kind, exported[kind])
    tokens = inputs["input_ids"]
    assert not theirs.training
    with torch.inference_mode():
        output = theirs(**inputs, output_hidden_states=True)
        assert torch.equal(output.logits, ours(tokens))
        assert torch.equal(theirs(tokens).logits, output.logits)  # padding is known without the attention mask
        for number, layer in ours.representations(tokens, range(3)).items():
            assert torch.equal(output.hidden_states[number], layer)
        assert torch.equal(theirs(**inputs, return_dict=False)[0], output.logits)
        assert theirs(**inputs).hidden_states is None
        bare = load(AutoModel, exported[kind])(**inputs)
        assert torch.equal(bare.last_hidden_state, ours.hidden(tokens))
    assert output.logits.std() > 0.1


@pytest.mark.parametrize("kind", ["relu", "softmax", "causal relu"])
def test_the_tokeniser_frames_proteins_as_protlm_does(exported: dict[str, Path], kind: str) -> None:
    tokenizer, model = load(AutoTokenizer, exported[kind]), build(kind)
    rows = [row.tolist() for row in encoded(model, PROTEINS)]
    assert tokenizer(PROTEINS)["input_ids"] == rows
    assert rows[0][0] == (EOS if KINDS[kind].get("start_id") else CLS)
    assert tokenizer.padding_side == ("left" if kind.startswith("causal") else "right")
    padded = tokenizer(PROTEINS, padding=True, padding_side="right")
    assert padded["input_ids"][1] == rows[1] + [PAD] * (len(rows[2]) - len(rows[1]))
    assert [sum(mask) for mask in padded["attention_mask"]] == [len(row) for row in rows]
    assert tokenizer("M<mask>K", add_special_tokens=False)["input_ids"] == [20, 32, 15]


@pytest.mark.parametrize("kind", ["relu", "exact", "causal softmax"])
def test_the_attention_mask_says_which_tokens_are_keys(exported: dict[str, Path], kind: str) -> None:
    ours, theirs = build(kind), load(auto(kind), exported[kind])
    tokens = torch.randint(4, 24, (2, 20))
    mask = torch.ones_like(tokens)
    mask[:, 3:9] = 0
    with torch.inference_mode():
        masked = theirs(tokens, attention_mask=mask).logits
        assert torch.equal(masked, ours(tokens, mask.bool()))
        assert not torch.allclose(masked[:, 9:], theirs(tokens).logits[:, 9:])
    with pytest.raises(ValueError, match="attention_mask of shape"):
        theirs(tokens, attention_mask=mask[:, :5])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_left_changes_nothing(exported: dict[str, Path], kind: str) -> None:
    theirs, tokenizer = load(auto(kind), exported[kind]), load(AutoTokenizer, exported[kind])
    outputs, rows = {}, {}
    for side in ("right", "left"):
        inputs = tokenizer(PROTEINS, padding=True, return_tensors="pt", padding_side=side)
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == PAD, -100)
        with torch.inference_mode():
            outputs[side] = theirs(**inputs, labels=labels, output_hidden_states=True)
            assert torch.equal(theirs(inputs["input_ids"]).logits, outputs[side].logits)
            bare = load(AutoModel, exported[kind])(**inputs).last_hidden_state
            assert torch.equal(bare, outputs[side].hidden_states[-1])
        rows[side] = inputs["attention_mask"].bool()
    assert not rows["left"][1, 0]
    assert torch.equal(outputs["left"].logits[rows["left"]], outputs["right"].logits[rows["right"]])
    assert torch.equal(outputs["left"].loss, outputs["right"].loss)
    for left, right in zip(outputs["left"].hidden_states, outputs["right"].hidden_states, strict=True):
        assert torch.equal(left[rows["left"]], right[rows["right"]])
    for number, protein in enumerate(PROTEINS):
        with torch.inference_mode():
            alone = theirs(**tokenizer([protein], return_tensors="pt")).logits[0]
        torch.testing.assert_close(outputs["left"].logits[number][rows["left"][number]], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["relu", "causal relu"])
def test_the_loss_is_cross_entropy_over_the_labels(exported: dict[str, Path], kind: str) -> None:
    theirs, inputs = load(auto(kind), exported[kind]), batch(kind, exported[kind])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == PAD, -100)
    with torch.inference_mode():
        output = theirs(**inputs, labels=labels)
    logits, targets = output.logits, labels
    if kind.startswith("causal"):
        logits, targets = logits[:, :-1], labels[:, 1:]
    torch.testing.assert_close(output.loss, F.cross_entropy(logits.flatten(0, 1), targets.flatten()))


@pytest.mark.parametrize("kind", ["relu", "causal relu"])
def test_a_model_of_the_other_direction_is_refused(exported: dict[str, Path], kind: str) -> None:
    other = AutoModelForMaskedLM if kind.startswith("causal") else AutoModelForCausalLM
    with pytest.raises(ValueError, match="^this model is (causal|bidirectional): use AutoModelFor"):
        load(other, exported[kind])


def test_a_model_without_a_head_says_so_in_one_line(tmp_path: Path) -> None:
    model = Performer(PerformerConfig(33, PAD, **SIZES, head="none")).eval()
    export_huggingface(model, tmp_path / "hf")
    for cls in (AutoModelForMaskedLM, AutoModelForCausalLM):
        with pytest.raises(ValueError, match="^this model has no language-model head: use AutoModel, or .* new head$"):
            load(cls, tmp_path / "hf")
    tokens = torch.randint(4, 24, (2, 20))
    torch.testing.assert_close(load(AutoModel, tmp_path / "hf")(tokens)[0], model.hidden(tokens))


@pytest.mark.parametrize("kind", ["softmax", "ESM's", "causal relu"])
def test_fine_tuning_changes_every_weight_as_in_protlm(exported: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """The fine-tuned model round-trips, with its code and licence."""
    ours, theirs = build(kind), load(auto(kind), exported[kind]).train()
    tokens = torch.randint(4, 24, (2, 20))
    before = {name: weight.clone() for name, weight in theirs.state_dict().items()}
    for model, weights in ((theirs.performer, theirs.parameters()), (ours.train(), ours.parameters())):
        optimizer = torch.optim.SGD(weights, lr=0.1)
        model.loss(model(tokens), tokens).backward()
        optimizer.step()
    for name, weight in ours.named_parameters():
        changed = theirs.state_dict()[f"performer.{name}"]
        assert torch.equal(changed, weight), name
        if name != "position":  # learned, except for positions after the proteins
            assert not torch.equal(changed, before[f"performer.{name}"]), name
    theirs.save_pretrained(tmp_path / "tuned")
    load(AutoTokenizer, exported[kind]).save_pretrained(tmp_path / "tuned")
    for name in sources(PerformerConfig(33, PAD)):
        assert "SPDX-License-Identifier: Apache-2.0" in (tmp_path / "tuned" / name).read_text()
    inputs = batch(kind, tmp_path / "tuned")
    assert torch.equal(inputs["input_ids"], batch(kind, exported[kind])["input_ids"])
    with torch.inference_mode():
        again = load(auto(kind), tmp_path / "tuned")(**inputs).logits
        assert torch.equal(again, ours.eval()(inputs["input_ids"]))


def test_a_new_model_is_initialised_as_in_protlm(exported: dict[str, Path]) -> None:
    config = load(transformers.AutoConfig, exported["relu"])
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (
        33,
        16,
        2,
        2,
    )
    new = AutoModelForMaskedLM.from_config(config, trust_remote_code=True).performer
    assert new.blocks[0].attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert new.blocks[0].attention.out.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert new.head.bias.count_nonzero() == 0


def test_masks_are_filled_as_by_protlm_fill(exported: dict[str, Path]) -> None:
    model, text = build("relu"), "MKT<mask>YIAKQR"
    theirs = load(AutoModelForMaskedLM, exported["relu"])
    pipeline = transformers.pipeline("fill-mask", model=theirs, tokenizer=load(AutoTokenizer, exported["relu"]))
    found = [guess["token_str"] for guess in pipeline(text, top_k=33) if guess["token_str"] in STANDARD]
    assert tuple(found) == predict_masked(model, text, top=20)[0].residues


ALONE = """
import os, socket, sys
sys.modules["protlm"] = None

def refuse(*_):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

for folder in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer(["MK<mask>", "MKTAY"], padding=True, return_tensors="pt")
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
    torch.save(model(**inputs).logits.detach(), os.path.join(sys.argv[1], os.path.basename(folder) + ".pt"))
"""


@pytest.mark.slow
def test_two_folders_load_in_one_process_without_protlm_and_network(exported: dict[str, Path], tmp_path: Path) -> None:
    home, results = tmp_path / "home", tmp_path / "results"
    home.mkdir()
    results.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON", "XDG_"))}
    places = {"HOME": str(home), "HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    kinds = ("relu", "softmax")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(results), *(str(exported[kind]) for kind in kinds)],
        env={**kept, **places, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []
    for kind in kinds:
        tokenizer = load(AutoTokenizer, exported[kind])
        tokens = tokenizer(["MK<mask>", "MKTAY"], padding=True, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            expected = build(kind)(tokens)
        torch.testing.assert_close(torch.load(results / f"{exported[kind].name}.pt"), expected, atol=1e-6, rtol=0)


def test_the_code_needs_torch_numpy_and_transformers_only() -> None:
    texts = sources(PerformerConfig(33, PAD))
    roots = set()
    for text in texts.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                roots.add(node.module.split(".")[0])
            elif isinstance(node, ast.ImportFrom):
                assert f"{node.module}.py" in texts
    assert roots - set(sys.stdlib_module_names) == {"torch", "numpy", "transformers"}
    for entry in ("modeling_protlm.py", "configuration_protlm.py"):
        named, waiting = set(), {entry}
        while waiting:
            text = texts[waiting.pop()]
            found = {f"{name}.py" for name in re.findall(r"^from \.(\w+) import ", text, re.MULTILINE)}
            waiting |= found - named
            named |= found
        for name in named - {entry}:  # transformers 4 finds direct imports only
            assert f"\nfrom .{name.removesuffix('.py')} import " in texts[entry]


def test_the_folder_has_a_model_card(exported: dict[str, Path], monkeypatch, capsys) -> None:
    for kind in ("relu", "causal relu"):
        folder = exported[kind]
        names = {path.name for path in folder.iterdir()}
        others = {"README.md", "config.json", "golden.safetensors", "model.safetensors", "tokenizer_config.json"}
        others |= {"vocab.txt", *(["generation_config.json"] if kind.startswith("causal") else [])}
        assert names == others | set(sources(PerformerConfig(33, PAD)))
        card = (folder / "README.md").read_text()
        monkeypatch.chdir(folder.parent)
        names = {}
        exec(card.split("```python")[1].split("```")[0], names)
        if kind == "relu":
            tokens = load(AutoTokenizer, folder)("MKT<mask>YIAKQR", return_tensors="pt")["input_ids"]
            torch.testing.assert_close(names["logits"], build(kind)(tokens))
        else:
            assert capsys.readouterr().out.startswith("MKTAYIAKQR")
        assert "Apache License 2.0" in card
        about = json.loads((folder / "config.json").read_text())
        assert about["performer"] == build(kind).config.to_dict()
        assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_an_existing_folder_is_not_overwritten_and_a_failure_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    model = build("relu")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="already exists"):
        export_huggingface(model, tmp_path / "there")
    with pytest.raises(UserError, match="there is no folder"):
        export_huggingface(model, tmp_path / "absent" / "new")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("protlm.exchange.huggingface.write_tokenizer", full)
    with pytest.raises(UserError, match="No space left"):
        export_huggingface(model, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    "line",
    ["from . import more", "import more_attention.inner", "from protlm.errors import UserError", "import protlm"],
)
def test_a_module_with_imports_outside_the_folder_is_refused(line: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "more_attention.py").write_text(
        "from protlm.performer.baselines import Exact\n\nclass Mine(Exact):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "more_attention", raising=False)
    config = PerformerConfig(33, PAD, attention=importlib.import_module("more_attention").Mine())
    assert "from .baselines import Exact" in sources(config)["more_attention.py"]
    with (tmp_path / "more_attention.py").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(UserError, match=r"more_attention\.py, line 6: imports .*, so it cannot be exported"):
        export_huggingface(Performer(config), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_class_named_like_a_built_in_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder names classes without modules, so protlm's own class would be loaded in its place."""
    (tmp_path / "own_window.py").write_text(
        "from protlm.performer.baselines import Exact\n\nclass Window(Exact):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_window", raising=False)
    config = PerformerConfig(33, PAD, attention=importlib.import_module("own_window").Window())
    with pytest.raises(UserError, match=r"attention own_window\.Window: protlm has a class of this name"):
        export_huggingface(Performer(config), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
