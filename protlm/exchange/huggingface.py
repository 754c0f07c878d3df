"""A model as a folder that Hugging Face's transformers loads without protlm.

The folder contains the weights, the configuration of transformers' own tokeniser, and the source files of remote_code,
of protlm/performer and imported_class.py that the model needs, with relative imports, since transformers copies them
all into one package. If attention is a class of another package, its module comes along.
"""

import ast
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from protlm import __version__, golden
from protlm.checkpoint import CONFIG, new_folder, save
from protlm.errors import UserError
from protlm.exchange.model_card import language_model_card
from protlm.exchange.tokenizer import write_tokenizer
from protlm.performer import Performer, PerformerConfig
from protlm.performer.kinds import built_in_classes, describe, implementation
from protlm.sequence.alphabets import alphabet_of
from protlm.strict_json import dumps

PACKAGE = Path(__file__).parents[1]
REMOTE_CODE = PACKAGE / "exchange/remote_code"
MODELS, CONFIGURATION = "modeling_protlm", "configuration_protlm"
"""Its modules that transformers loads."""
IMPORT = re.compile(
    r"^from protlm\.(performer\.|exchange\.remote_code\.|(?=imported_class ))(\w+) import", re.MULTILINE
)
HEADER = f"""\
# Part of protlm {__version__}, a copy made for this model.
# SPDX-License-Identifier: Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)
"""
NAMED = "\n\n# transformers 4 copies only the files that are imported here\n"
PREFIX = "performer."
"""Prefix of the names of the weights: the attribute of the classes in modeling_protlm.py."""


def export_huggingface(model: Performer, folder: str | Path, source: Path | None = None) -> None:
    """Writes the folder atomically.

    `transformers.AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)` loads a bidirectional model,
    `AutoModelForCausalLM` a causal one, `AutoModel` either without its head, `AutoTokenizer` the tokeniser.

    Args:
        model: to export.
        folder: must not exist.
        source: where the model was read from; its results are added to the card, see `language_model_card`.

    Raises:
        UserError: if the folder already exists or cannot be written, or for attention of another package whose module
            cannot be copied, see `attention_source`.
    """
    auto = list(auto_classes(model.config))[-1]
    about = language_model_card(model.config, auto, Path(folder).name, source)
    write_huggingface(folder, model, {}, model_config(model), about)


def write_huggingface(
    folder: str | Path, model: Performer, weights: Mapping[str, Tensor], config: dict[str, Any], about: str
) -> None:
    """Writes a folder for transformers.

    Args:
        folder: must not exist.
        model: of the weights.
        weights: more of them, by the names of modeling_protlm.py.
        config: content of config.json.
        about: the model card.
    """
    texts = sources(model.config)
    with new_folder(folder) as partial:
        save({PREFIX + name: weight for name, weight in model.state_dict().items()} | dict(weights), partial)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        write_tokenizer(model.config, partial)
        if model.config.causal and model.head is not None:
            _write_json(partial / "generation_config.json", generation_config(model.config))
        _write_json(partial / CONFIG, config)
        (partial / "README.md").write_text(about, encoding="utf-8")
        golden.record(model, partial)


def sources(config: PerformerConfig) -> dict[str, str]:
    """The source files that the exported model needs: text by file name, with relative imports."""
    own, texts = attention_source(config), {}
    for module in (MODELS, CONFIGURATION):
        files = _with_imports(REMOTE_CODE / f"{module}.py", own)
        if own is not None and sum(path.name == own.name for path in files) > 1:
            raise UserError(f"{own}: cannot be exported next to protlm's file of the same name; rename the module")
        texts |= {path.name: text for path, text in files.items() if path.name not in texts}
        others = sorted(path.stem for path in files if path.stem != module)
        texts[f"{module}.py"] += NAMED + "".join(f"from .{other} import __name__ as _\n" for other in others)
    return texts


def _with_imports(path: Path, own: Path | None) -> dict[Path, str]:
    """The text of a file, of attention of another package, and of all files of protlm that they import."""
    texts: dict[Path, str] = {}
    waiting = [path] if own is None else [path, own]
    while waiting:
        path = waiting.pop()
        text = path.read_text(encoding="utf-8")
        texts[path] = ("" if path == own else HEADER) + IMPORT.sub(r"from .\2 import", text)
        needed = {PACKAGE / folder.replace(".", "/") / f"{module}.py" for folder, module in IMPORT.findall(text)}
        waiting += sorted(needed - texts.keys())
    return texts


def attention_source(config: PerformerConfig) -> Path | None:
    """The module of attention that another package defines; None for built-in attention.

    Raises:
        UserError: for a class with the name of a built-in one.
        UserError: for a module that does not work alone: one that imports modules of its own package, or of protlm in
            another form than `from protlm.performer.MODULE import NAME`.
    """
    cls = implementation(config.kind)
    if cls.__module__.startswith("protlm."):
        return None
    if cls.__name__ in built_in_classes():  # the folder names classes without their modules
        raise UserError(
            f"attention {cls.__module__}.{cls.__name__}: protlm has a class of this name, so it cannot be exported to "
            "Hugging Face; rename the class"
        )
    path = Path(inspect.getfile(cls))
    own = {cls.__module__.partition(".")[0], "protlm"}
    text = re.sub(r"(?m)^from protlm\.performer\.\w+ import", "from torch import", path.read_text(encoding="utf-8"))
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        for name in names:
            if name.startswith(".") or name.partition(".")[0] in own:
                raise UserError(
                    f"{path}, line {node.lineno}: imports {name}, so it cannot be exported to Hugging Face; a module "
                    "of attention may import protlm as 'from protlm.performer.MODULE import NAME' and nothing of its "
                    "own package"
                )
    return path


def auto_classes(config: PerformerConfig) -> dict[str, str]:
    """Names of transformers' Auto classes and of ours, except for the configuration."""
    tasks = ["ForSequenceClassification", "ForTokenClassification"]  # with a new head
    tasks.append("" if config.head == "none" else "ForCausalLM" if config.causal else "ForMaskedLM")
    found = {"AutoModel": "ProtlmModel", **{f"AutoModel{task}": f"Protlm{task}" for task in tasks if task}}
    if config.head == "none":
        found["AutoModel"] = found.pop("AutoModel")  # what the folder is made for comes last
    return found


def model_config(model: Performer) -> dict[str, Any]:
    """The content of config.json."""
    attention = model.config.attention_name
    if attention_source(model.config) is not None:  # there, the class is in another package
        described = describe(model.config.kind)
        assert not isinstance(described, str)
        name = implementation(model.config.kind).__name__
        attention = {key: name if key in ("map", "kind") else value for key, value in described.items()}
    classes, alphabet = auto_classes(model.config), alphabet_of(model.config.alphabet)
    refused = {f"AutoModelFor{task}": f"ProtlmFor{task}" for task in ("MaskedLM", "CausalLM")}  # which say why
    return {
        "architectures": [list(classes.values())[-1]],
        "auto_map": {
            "AutoConfig": f"{CONFIGURATION}.ProtlmConfig",
            **{auto: f"{MODELS}.{name}" for auto, name in (refused | classes).items()},
        },
        "model_type": "protlm",
        "torch_dtype": str(model.embedding.weight.dtype).removeprefix("torch."),
        "pad_token_id": model.config.pad_id,
        "bos_token_id": model.config.start_id,
        "eos_token_id": alphabet.eos,
        "mask_token_id": alphabet.mask,
        "performer": {**model.config.to_dict(), "attention": attention},
        "protlm_version": __version__,
    }


def generation_config(config: PerformerConfig) -> dict[str, Any]:
    """What `generate` of transformers draws, as protlm's: the twenty amino acids (or bases, bytes) and `<eos>`."""
    alphabet = alphabet_of(config.alphabet)
    drawn = {*alphabet.drawn.tolist(), alphabet.eos}
    return {
        "bos_token_id": config.start_id,
        "eos_token_id": alphabet.eos,
        "pad_token_id": config.pad_id,
        "suppress_tokens": [token for token in range(alphabet.size) if token not in drawn],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(dumps(content, indent=2) + "\n")
