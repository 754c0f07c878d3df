"""Models named as on the Hugging Face Hub: taken from the cache of huggingface_hub, or downloaded into it.

Only the files that an import reads are downloaded: the configuration, the vocabulary, and the weights in one format.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path

from protlm.errors import UserError
from protlm.exchange.saved_model import FILES

ADAPTER, ADAPTER_FILES = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
"""Files of an adapter of peft: its settings, and the names that its weights may have."""
CONFIG, VOCABULARY = "config.json", "vocab.txt"
LOCAL = (".pt", ".ckpt", ".safetensors", ".bin")
"""Suffixes of files, which names of models on the Hub do not have."""
TIMEOUT = 10.0
"""Seconds to wait for the Hub."""
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def located(source: str | Path, revision: str | None = None) -> Path:
    """The local path of a model: that given if it exists, else of the model of this name on the Hub.

    Args:
        source: a path, or a name such as facebook/esm2_t6_8M_UR50D.
        revision: branch, tag or commit of a model of the Hub.

    Raises:
        UserError: for a revision of a local model; as `hub_folder`.
    """
    path = Path(source)
    if path.exists() or path.suffix in LOCAL or not _NAME.fullmatch(path.as_posix()):
        if revision is not None:
            found = "a local path" if path.exists() else "no name of a model on the Hugging Face Hub"
            raise UserError(f"revision {revision}: {path} is {found}; leave it out", "revision")
        return path
    return hub_folder(path.as_posix(), revision)


def hub_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a model of the Hub in the cache; what is not there is downloaded.

    Raises:
        UserError: if the model is neither in the cache nor can be downloaded; the message has the command that does.
    """
    folder = name.split("/")[1]
    command = f"hf download {name}{f' --revision {revision}' if revision else ''} --local-dir {folder}"
    advice = f"download it where there is a network: {command}; then use the folder {folder}"
    try:
        from huggingface_hub import constants
        from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        reason = "a name of the Hugging Face Hub needs huggingface_hub: pip install 'protlm[hub]'"
        raise UserError(f"{name}: no such folder; {reason}; or {advice}") from error
    if cached := _cached(name, revision):
        return cached
    try:
        return _downloaded(name, revision)
    except UserError:
        raise
    except RevisionNotFoundError as error:
        raise UserError(
            f"revision {revision}: {name} of the Hugging Face Hub has none of this name", "revision"
        ) from error
    except RepositoryNotFoundError as error:  # or one with restricted access
        raise UserError(
            f"{name}: no such folder, and no such model on the Hugging Face Hub that you have access to; check the "
            "name, or log in: hf auth login"
        ) from error
    except OfflineModeIsEnabled as error:
        reason = "HF_HUB_OFFLINE is set"
        cause: Exception = error
    except Exception as error:  # of the network, of which huggingface_hub has changed the library, or of the disk
        reason, cause = " ".join(str(error).split())[:200] or type(error).__name__, error
    raise UserError(
        f"{name}: no such folder, not in the cache ({constants.HF_HUB_CACHE}), and cannot be downloaded ({reason}); "
        f"{advice}"
    ) from cause


def _cached(name: str, revision: str | None) -> Path | None:
    """The snapshot in the cache, if it has all files that are needed."""
    from huggingface_hub import try_to_load_from_cache

    for settings in (ADAPTER, CONFIG):
        found = try_to_load_from_cache(name, settings, revision=revision)
        if isinstance(found, str):
            folder = Path(found).parent
            files = _needed({path.name for path in folder.iterdir()})
            return folder if files and _parts(folder, files) is not None else None
    return None


def _downloaded(name: str, revision: str | None) -> Path:
    """The snapshot in the cache after a download of the files that are needed."""
    from huggingface_hub import hf_hub_download, model_info

    about = model_info(name, revision=revision, timeout=TIMEOUT)
    files = _needed({one.rfilename for one in about.siblings or []})
    if not files:
        raise UserError(
            f"{name} of the Hugging Face Hub: not a model of transformers, which has {CONFIG} and weights in one of "
            f"{', '.join(FILES)}"
        )
    folder = Path(hf_hub_download(name, files[0], revision=revision)).parent
    for file in files[1:]:
        hf_hub_download(name, file, revision=folder.name)  # of the same commit
    for part in _parts(folder, files, here=False) or ():
        hf_hub_download(name, part, revision=folder.name)
    return folder


def _needed(found: Collection[str]) -> list[str]:
    """The files that an import reads, the settings first; none if weights or settings are missing."""
    settings, weights = (ADAPTER, ADAPTER_FILES) if ADAPTER in found else (CONFIG, FILES)
    file = next((name for name in weights if name in found), None)
    if file is None or settings not in found:
        return []
    return [settings, file, *([VOCABULARY] if settings == CONFIG and VOCABULARY in found else [])]


def _parts(folder: Path, files: list[str], here: bool = True) -> list[str] | None:
    """The files with the parts of weights in several files; None if `here` and one is missing."""
    if not files[1].endswith(".json"):
        return []
    table = json.loads((folder / files[1]).read_text()).get("weight_map", {})
    parts = sorted(set(table.values()))
    return None if here and not all((folder / part).is_file() for part in parts) else parts
