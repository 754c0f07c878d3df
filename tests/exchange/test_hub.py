"""Names of the Hugging Face Hub: in the cache, on a server, and nowhere."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import EsmForMaskedLM

from protlm.errors import UserError
from protlm.exchange.hub import hub_folder, located
from protlm.exchange.pretrained import load_pretrained
from tests.command import assert_refused
from tests.exchange.test_esm import batch, in_parts
from tests.exchange.test_pretrained import saved

NAME, COMMIT, OTHER = "facebook/esm2_t6_8M_UR50D", "a" * 40, "b" * 40
COMMAND = f"hf download {NAME} --local-dir esm2_t6_8M_UR50D"


@pytest.fixture(scope="module")
def esm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("esm") / "esm"
    saved(EsmForMaskedLM, folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, source: Path, name: str = NAME, commit: str = COMMIT, revision: str = "main") -> Path:
    """A model in the layout of the cache: files by content, linked from a folder of each commit."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for folder in (snapshot, home / "blobs", home / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    for path in source.iterdir():
        blob = home / "blobs" / f"{commit}-{path.name}"
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def assert_same(found: Any, esm: Path) -> None:
    tokens, _ = batch()
    with torch.inference_mode():
        assert torch.equal(load_pretrained(found).model(tokens), load_pretrained(esm).model(tokens))


def test_a_cached_model_is_imported_by_its_name(protlm: Any, cache: Path, esm: Path, tmp_path: Path) -> None:
    cached(cache, esm)
    assert_same(NAME, esm)
    assert protlm("import", NAME, tmp_path / "out").code == 0


def test_a_local_folder_of_the_name_wins(
    cache: Path, esm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(cache, esm)
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert located(NAME) == Path(NAME)
    with pytest.raises(UserError, match="revision main: .* is a local path"):
        located(NAME, "main")


def test_a_revision_is_a_branch_or_commit(cache: Path, esm: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(esm, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    save_file({name: weight * 2 for name, weight in weights.items()}, other / "model.safetensors")
    first, second = cached(cache, esm), cached(cache, other, commit=OTHER, revision="v2")
    assert (hub_folder(NAME), hub_folder(NAME, COMMIT)) == (first, first)
    assert (hub_folder(NAME, "v2"), hub_folder(NAME, OTHER)) == (second, second)
    with pytest.raises(UserError, match="hf download .* --revision v3 --local-dir"):
        hub_folder(NAME, "v3")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, about transformers
def test_the_base_of_an_adapter_may_be_in_the_cache(cache: Path, esm: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = peft.get_peft_model(
        EsmForMaskedLM.from_pretrained(esm), peft.LoraConfig(target_modules=["query"], init_lora_weights=False)
    )
    model.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = NAME
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    cached(cache, tmp_path / "adapter", "somebody/adapter")
    with pytest.raises(UserError, match=f"an adapter of {NAME}: .*{COMMAND}.*give its folder as base"):
        load_pretrained("somebody/adapter")
    cached(cache, esm)
    tokens, mask = batch()
    with torch.inference_mode():
        expected = model(input_ids=tokens, attention_mask=mask.long()).logits[mask]
        torch.testing.assert_close(load_pretrained("somebody/adapter").model(tokens)[mask], expected, atol=1e-4, rtol=0)
        assert torch.equal(
            load_pretrained("somebody/adapter", NAME).model(tokens), load_pretrained("somebody/adapter").model(tokens)
        )


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors", "b.safetensors"])
def test_a_model_that_is_not_completely_in_the_cache_is_refused(
    protlm: Any, cache: Path, esm: Path, tmp_path: Path, gone: str
) -> None:
    source = Path(shutil.copytree(esm, tmp_path / "source"))
    if gone == "b.safetensors":
        in_parts(source, ("a.safetensors", "b.safetensors"), save_file)
    (cached(cache, source) / gone).unlink()
    done = protlm("import", NAME, tmp_path / "out")
    assert_refused(done, f"{NAME}: no such folder, not in the cache", "HF_HUB_OFFLINE is set", COMMAND)
    assert not (tmp_path / "out").exists()


def test_without_huggingface_hub_the_command_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=f"needs huggingface_hub.*{COMMAND}"):
        hub_folder(NAME)


class Hub(BaseHTTPRequestHandler):
    """What the Hub answers, for one model."""

    folder: Path
    asked: list[str]

    def answer(self) -> None:
        if self.path.startswith(f"/api/models/{NAME}"):
            names = [{"rfilename": path.name} for path in self.folder.iterdir()]
            content = json.dumps({"id": NAME, "sha": COMMIT, "siblings": names}).encode()
        elif self.path.startswith(f"/{NAME}/resolve/"):
            name = self.path.rsplit("/", 1)[1]
            self.asked.append(name)
            content = (self.folder / name).read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for header, value in (("ETag", f'"{len(content)}"'), ("X-Repo-Commit", COMMIT)):
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_GET = do_HEAD = answer  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def hub(esm: Path, tmp_path: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Environment variables with which huggingface_hub asks a server of this test, and the files it asks for."""
    folder = Path(shutil.copytree(esm, tmp_path / "there"))
    for extra in ("pytorch_model.bin", "tf_model.h5", "README.md"):
        (folder / extra).write_bytes(b"not needed")
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Hub,), {"folder": folder, "asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}, asked
    server.shutdown()
    server.server_close()


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "protlm", *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_only_the_files_that_are_needed_are_downloaded_and_only_once(
    hub: tuple[dict[str, str], list[str]], tmp_path: Path
) -> None:
    environment, asked = hub
    assert run("import", NAME, tmp_path / "out", **environment).returncode == 0
    assert set(asked) == {"config.json", "model.safetensors"}
    asked.clear()
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    assert run("import", NAME, tmp_path / "again", **offline).returncode == 0
    assert asked == []
    absent = run("import", "facebook/absent", tmp_path / "absent", **environment)
    assert absent.returncode == 2
    assert "no such model on the Hugging Face Hub" in absent.stderr


@pytest.mark.slow
@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_network_the_message_has_the_command_that_downloads(tmp_path: Path, offline: str) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline}
    done = run("import", NAME, tmp_path / "out", **nowhere)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert COMMAND in done.stderr
    assert not (tmp_path / "out").exists()
