"""Outputs of all commands follow one rule."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protlm.checkpoint import export
from protlm.cli.outputs import FOLDER, HDF5, PICTURE, TABLE, OutputKind, check_outputs
from protlm.errors import UserError
from protlm.performer import Performer
from tests.command import assert_refused

PROTEIN = "MKTAYIAKQR"
# command with the option last, and the suffix of what it writes; the text ones also write to standard output
BINARY = {
    "prepare proteins.fasta -o": ".h5",
    "info corpus.h5 --histogram": ".png",
    "embed proteins.fasta -m model -o": ".h5",
    "embed proteins.fasta -m model --per-residue": ".h5",
    "merge part.h5 -o": ".h5",
    f"fill {PROTEIN} -m model --logo": ".svg",
    f"fill {PROTEIN} -m model --heatmap": ".pdf",
    f"score {PROTEIN} -m model --all --heatmap": ".png",
}
TEXT = {
    "fill M<mask>K -m model -o": ".tsv",
    f"fill {PROTEIN} -m model --matrix": ".tsv",
    "generate -m causal --max-length 9 -o": ".fasta",
    f"score {PROTEIN} -m model --variant M1L -o": ".csv",
    f"score {PROTEIN} -m model --pseudo-perplexity --one-pass -o": ".tsv",
    "evaluate corpus.h5 -m model --split train --json": ".json",
    "proteingym assays -m model -o": ".csv",
}


@pytest.fixture(autouse=True)
def folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Path, causal_model: Performer, write_fasta, protlm
) -> None:
    """Commands run in the test's folder."""
    monkeypatch.chdir(tmp_path)
    export(causal_model, "causal")
    write_fasta((name, PROTEIN) for name in "abc")
    assert protlm("prepare", "proteins.fasta", "-o", "corpus.h5", "--test", 0, "--valid", 0).code == 0
    Path("assays").mkdir()
    Path("assays/wt.fasta").write_text(f">a\n{PROTEIN}\n")
    Path("assays/a.csv").write_text("mutant,DMS_score\nM1L,1\nK2R,2\nT3A,3\n")
    Path("part.h5").touch()


@pytest.mark.parametrize("command", [*BINARY, *TEXT])
def test_names_and_folders_are_checked_in_every_command(protlm, tmp_path: Path, command: str) -> None:
    suffix = {**BINARY, **TEXT}[command]
    before = sorted(tmp_path.rglob("*"))
    for name, words in {
        "out.zip": "ends in .",
        "out": "ends in .",
        "assays": "assays: is a folder; expected a file name that ends in .",
        f"typo/out{suffix}": "there is no folder typo; create it first",
        f"proteins.fasta/out{suffix}": "proteins.fasta is a file, not a folder",
        f"{'x' * 300}{suffix}": "cannot be written (File name too long)",
        **({"-": "cannot be written to standard output"} if command in BINARY else {}),
    }.items():
        assert_refused(protlm(*command.split(), name), f"{command.split()[-1].replace('-o', '--output')} {name}", words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", TEXT)
def test_text_goes_to_standard_output_alone(protlm, tmp_path: Path, command: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    written = protlm(*command.split(), "-")
    assert written.code == 0
    assert sorted(tmp_path.rglob("*")) == before
    name = f"out{TEXT[command]}"
    assert protlm(*command.split(), name).code == 0
    if "fill M<" not in command:  # there, standard output is aligned
        assert written.out == Path(name).read_text()
        if name.endswith(".json"):
            json.loads(written.out)


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".txt", "\t")])
@pytest.mark.parametrize("options", ["--variant M1L", "--pseudo-perplexity --one-pass"])
def test_the_suffix_of_a_table_sets_the_delimiter(protlm, suffix: str, delimiter: str, options: str) -> None:
    assert protlm(*f"score {PROTEIN} -m model {options} -o out{suffix}".split()).code == 0
    header, row = csv.reader(Path(f"out{suffix}").read_text().splitlines(), delimiter=delimiter)
    assert len(header) == len(row) == (9 if "variant" in options else 3)


def test_folders_to_write_are_checked_in_every_command(protlm, tmp_path: Path) -> None:
    shutil.copytree("model", "old")
    for command in (
        "export -m model",
        "embed proteins.fasta -m model --layout esm-pt -o",
        "proteingym assays --scores",
    ):
        for name, words in {
            "typo/out": "there is no folder typo",
            "part.h5": "",
            "out.safetensors": "looks like a file; expected the name of a folder",
            "-": "cannot be written to standard output",
        }.items():
            before = sorted(tmp_path.rglob("*"))
            assert_refused(protlm(*command.split(), name), name, words)
            assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [HDF5, PICTURE, TABLE, FOLDER])
def test_a_folder_without_permission_is_named_before_anything_is_computed(monkeypatch, kind: OutputKind) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "assays")  # root may write everywhere
    path = Path(f"assays/out{kind.suffixes[0] if kind.suffixes else ''}")
    with pytest.raises(UserError, match=r"^--output assays/out.*: cannot be written \(Permission denied in folder"):
        check_outputs({"--output": (path, kind)})
    check_outputs({"--output": (Path(path.name), kind)})


FOLDERS = ("export -m model", "export -m model --format hf", "embed proteins.fasta -m model --layout esm-pt -o")


@pytest.mark.parametrize("command", [*BINARY, *TEXT, *FOLDERS])
def test_a_full_disk_is_one_line_in_every_command(protlm, tmp_path: Path, command: str) -> None:
    if command.startswith("merge"):
        Path("part.h5").unlink()
        assert (
            protlm(
                *["embed", "proteins.fasta", "-m", "model", "--device", "cpu", "--shard", "1/1", "-o", "part.h5"]
            ).code
            == 0
        )
    name = f"out{({**BINARY, **TEXT}).get(command, '')}"
    before = sorted(tmp_path.rglob("*"))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))  # the size of files has the effect of a full disk
    try:
        refused = protlm(*command.split(), name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert refused.code == 2
    *_, message = refused.err.splitlines()
    assert message.startswith(f"error: {name}: cannot be written (File too large)")
    assert "Traceback" not in refused.err
    if "embed" not in command:  # which keeps what it has computed
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_standard_output_that_is_full_closed_or_ascii() -> None:
    Path("proteins.fasta").write_text(f">Ä{'x' * 200}\n{PROTEIN * 20}\n")

    def run(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        script = f'"$0" -m protlm "$@" {redirection}'
        command = ["bash", "-o", "pipefail", "-c", script, sys.executable, *arguments]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    scan = ("score", "proteins.fasta", "-m", "model", "--all", "--method", "wt-marginals")
    perplexity = ("score", "proteins.fasta", "-m", "model", "--pseudo-perplexity", "--one-pass")
    line = "error: standard output: cannot be written (No space left on device)\n"
    full = run("> /dev/full", *scan)
    assert (full.returncode, full.stderr) == (2, line)
    closed = run(">&-", *scan)
    assert (closed.returncode, closed.stderr) == (2, "error: standard output is closed; choose a file for the output\n")
    head = run("| head -n 1", *scan)
    assert (head.returncode, head.stderr) == (1, "")
    assert head.stdout.startswith("mutant,mutated_sequence,protlm_score,")
    assert head.stdout.count("\n") == 1
    ascii_only = run("", *perplexity)
    assert ascii_only.returncode == 0
    assert ascii_only.stdout.splitlines()[1].startswith(f"\\xc4{'x' * 200}\t200\t")  # not wrapped either


@pytest.mark.slow
@pytest.mark.parametrize("early", [True, False])
def test_ctrl_c_is_the_same_for_the_module_and_the_console_script(early: bool) -> None:
    module = "import runpy; sys.argv[0] = 'protlm'; runpy.run_module('protlm', run_name='__main__', alter_sys=True)"
    script = "from protlm.__main__ import main; sys.exit(main())"
    # a background job of a shell would ignore the signal; the import is interrupted at its start, or the command later
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    if early:
        finder = "staticmethod(lambda name, *_: signal.raise_signal(signal.SIGINT) if name == 'protlm.cli' else None)"
        start += f"sys.meta_path.insert(0, type('Finder', (), {{'find_spec': {finder}}}))\n"
    for form in (module, script):
        command = [sys.executable, "-c", start + form, "prepare", "-", "-o", "out.h5"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            if not early:
                while not Path(".out.h5.partial").exists():
                    assert process.poll() is None
                process.send_signal(signal.SIGINT)
            err = process.communicate(timeout=60)[1]
        assert (process.returncode, err) == (130, "interrupted; no partial output was left\n")
