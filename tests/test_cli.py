import gzip
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
import torch
import xxhash

from protlm import __version__
from protlm.checkpoint import export, load
from protlm.corpus.reader import Corpus
from tests.command import Outcome, assert_refused


@pytest.fixture
def fasta(write_fasta) -> Path:
    return write_fasta([("sp|P1|A_B", "MKTAYIAKQR"), ("b/c", "mkT-LLI*"), ("d", "GAVLIMCFYW" * 8)])


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    # a background job of a shell would ignore the signal
    script = "import signal, protlm.cli; signal.signal(signal.SIGINT, signal.default_int_handler); protlm.cli.main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_folder(folder: Path, process: subprocess.Popen[str]) -> None:
    """Waits until the command starts to write."""
    while not list(folder.glob(".out.*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)


def test_prepare_embed_fill_evaluate_export(protlm, fasta: Path, model_folder: Path, tmp_path: Path) -> None:
    corpus, proteins, residues = (tmp_path / f"{name}.h5" for name in ("corpus", "proteins", "residues"))
    model = ("--model", model_folder, "--device", "cpu")

    prepared = protlm("prepare", fasta, "-o", corpus)
    assert prepared.code == 0
    assert f"{corpus}: 3 proteins, 96 residues (train" in prepared.err
    assert "1 record: lower case made upper case (2 residues)" in prepared.err
    assert prepared.out == ""
    assert len(Corpus(corpus)) == 3

    embedded = protlm("embed", fasta, "-o", proteins, "--per-residue", residues, *model)
    assert embedded.code == 0
    assert f"{proteins}, {residues}: 3 proteins, 96 residues, width 16" in embedded.err
    assert "1 identifier: stored under another name" in embedded.err
    with h5py.File(proteins) as means, h5py.File(residues) as rows:
        assert list(means) == list(rows) == ["P1", "b_c", "d"]

    filled = protlm("fill", "MK<mask>LLI<mask>", "--top", 2, *model)
    assert (filled.code, filled.err) == (0, "")
    header, *lines = filled.out.splitlines()
    assert header.split() == ["protein", "position", "rank", "residue", "probability"]
    assert [line.split()[1] for line in lines] == ["3", "3", "7", "7"]
    assert all(0 < float(line.split()[4]) < 1 for line in lines)

    evaluated = protlm("evaluate", corpus, "--split", "train", *model)
    assert (evaluated.code, evaluated.err) == (0, "")
    header, line = evaluated.out.splitlines()
    assert header.split()[:2] == ["split", "accuracy"]
    assert line.startswith("train")

    exported = protlm("export", tmp_path / "copy", "--model", model_folder)
    assert (exported.code, exported.out) == (0, "")
    assert torch.equal(load(tmp_path / "copy").head.weight, load(model_folder).head.weight)


def test_prepare_splits_by_clusters_and_holds_out(protlm, sample: Path, corpus_path: Path, tmp_path: Path) -> None:
    tables = ("--clusters", sample.with_name("families.clusters.tsv"), "--ood", sample.with_name("families.ood.txt"))
    assert protlm("prepare", sample, "-o", tmp_path / "c.h5", *tables, "--split-by", "sequence").code == 0
    assert (Corpus(tmp_path / "c.h5").split == Corpus(corpus_path).split).all()
    assert protlm("prepare", sample, "-o", tmp_path / "w.h5", *tables).code == 0  # whole clusters are the default
    assert (Corpus(tmp_path / "w.h5").split != Corpus(corpus_path).split).any()


def test_proteins_missing_from_the_cluster_table_are_reported(protlm, fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "clusters.tsv").write_text("P1\tP1\n")
    outcome = protlm("prepare", fasta, "-o", tmp_path / "c.h5", "--clusters", tmp_path / "clusters.tsv")
    assert outcome.code == 0
    assert "2 records: not in the cluster table" in outcome.err


@pytest.mark.parametrize(
    ("options", "ids", "line"),
    [
        ("", ["P1", "P1", "c", "d", "Q2"], ""),
        ("--min-length 4", ["c", "d", "Q2"], "2 records: left out, shorter than 4 residues (6 residues)"),
        ("--max-length 3", ["P1", "P1"], "3 records: left out, longer than 3 residues (18 residues)"),
        ("--drop-fragments", ["P1", "P1", "c"], "2 records: left out, fragment (13 residues)"),
        ("--nonstandard drop", ["P1", "P1", "d", "Q2"], "1 record: left out, residues that are none of the twenty"),
        ("--nonstandard keep", ["P1", "P1", "c", "d", "Q2"], ""),
        ("--deduplicate", ["P1", "c", "d", "Q2"], "1 record: merged with an identical sequence"),
        ("--id word", ["sp|P1|A_B", "P1", "c", "d", "tr|Q2|C_D"], ""),
        ("--id accession", ["P1", "P1", "c", "d", "Q2"], ""),
    ],
)
def test_options_of_prepare_select_records(protlm, tmp_path: Path, options: str, ids: list[str], line: str) -> None:
    fasta = tmp_path / "some.fasta"
    fasta.write_text(
        ">sp|P1|A_B\nMKT\n>P1 again\nMKT\n>c\nMKTUW\n>d x (Fragment)\nMKTW\n>tr|Q2|C_D (Fragments) y\nMKTAYIAKQ\n"
    )
    outcome = protlm("prepare", fasta, "-o", tmp_path / "c.h5", *options.split())
    assert (outcome.code, outcome.out) == (0, "")
    assert Corpus(tmp_path / "c.h5").ids() == ids
    assert line in outcome.err


def test_several_files_and_workers_make_one_corpus(protlm, fasta: Path, tmp_path: Path) -> None:
    packed, again = tmp_path / "more.fasta.gz", shutil.copy(fasta, tmp_path / "again.fasta")
    packed.write_bytes(gzip.compress(b">more\nMKT\n"))
    for workers in (1, 2):
        outcome = protlm("prepare", fasta, packed, again, "-o", tmp_path / f"{workers}.h5", "--workers", workers)
        assert (outcome.code, outcome.out) == (0, "")
        assert Corpus(tmp_path / f"{workers}.h5").ids() == ["P1", "b/c", "d", "more", "P1", "b/c", "d"]


def test_info_prints_a_table(protlm, fasta: Path, tmp_path: Path) -> None:
    assert protlm("prepare", fasta, "-o", tmp_path / "c.h5").code == 0
    outcome = protlm("info", tmp_path / "c.h5")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    size, checksum = fasta.stat().st_size, xxhash.xxh3_128_hexdigest(fasta.read_bytes())
    assert lines[0] == f"made from {fasta.name} ({size} bytes, XXH3-128 {checksum})"
    (row,) = (line.split() for line in lines if line.startswith("all"))
    assert row[:5] == ["all", "3", "96", "6", "80"]
    assert lines[-1] == "training: 1 step per epoch with --max-length 512, --token-budget 4000 and one device"


def test_info_prints_json(protlm, corpus_path: Path) -> None:
    outcome = protlm("info", corpus_path, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    figures = json.loads(outcome.out)
    assert figures["splits"]["all"]["count"] == len(Corpus(corpus_path))
    assert figures["sources"] == Corpus(corpus_path).attributes["sources"]
    assert sum(figures["frequencies"]["train"].values()) == pytest.approx(1)
    options = ("--max-length", "64", "--token-budget", "20000")
    assert json.loads(protlm("info", corpus_path, "--json", *options).out)["steps_per_epoch"] == 6


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_info_draws_lengths(protlm, corpus_path: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    outcome = protlm("info", corpus_path, "--histogram", tmp_path / "lengths.png", *options)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == protlm("info", corpus_path, *options).out
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [path.name for path in tmp_path.iterdir()] == ["lengths.png"]


@pytest.mark.parametrize("name", ["lengths", "lengths.txt", "lengths.png.exe"])
def test_info_refuses_an_unknown_picture_format(protlm, corpus_path: Path, tmp_path: Path, name: str) -> None:
    assert_refused(protlm("info", corpus_path, "--histogram", tmp_path / name), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_info_names_a_picture_it_cannot_write(protlm, corpus_path: Path, tmp_path: Path) -> None:
    outcome = protlm("info", corpus_path, "--histogram", tmp_path / "absent" / "lengths.png")
    assert outcome.code == 2
    start = re.escape(f"error: --histogram {tmp_path / 'absent' / 'lengths.png'}: there is no folder")
    assert re.fullmatch(rf"{start}[^\n]+\n", outcome.err)


def test_paths_are_printed_verbatim(protlm, fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "[bold]:smile:[").mkdir()
    odd = tmp_path / "[bold]:smile:[" / "red].h5"  # [/red] is markup to rich
    outcome = protlm("prepare", fasta, "-o", odd)
    assert outcome.code == 0
    assert f"{odd}: 3 proteins" in outcome.err
    assert_refused(protlm("evaluate", odd.with_name("[none]"), "--model", "m"), odd.with_name("[none]"))


@pytest.mark.parametrize(
    "command",
    [
        "prepare FASTA -o out.h5",
        "embed FASTA -o out.h5 -m MODEL",
        "fill FASTA --matrix out.tsv -m MODEL",
        "score FASTA --pseudo-perplexity -m MODEL -o out.tsv",
        "score FASTA --all -m MODEL -o out.csv",
    ],
)
def test_invalid_records_are_skipped_on_request(protlm, write_fasta, model_folder, monkeypatch, command: str) -> None:
    monkeypatch.chdir(model_folder.parent)
    fasta = write_fasta([("one", "M1"), ("two", "<mask>K" if "fill" in command else "MKT"), ("three", "M?")])
    words = command.replace("FASTA", fasta.name).replace("MODEL", "model").split()
    assert_refused(protlm(*words), f"{fasta.name}, record 1 (one), line 2: '1' at position 2", "1 other record")
    outcome = protlm(*words, "--invalid", "skip")
    assert outcome.code == 0
    *others, first, second = outcome.err.splitlines()
    assert "2 records: skipped, invalid" in others
    assert first.startswith(f"skipped: {fasta.name}, record 1 (one), line 2: '1' at position 2 ")
    assert second.startswith(f"skipped: {fasta.name}, record 3 (three), line 6: '?' at position 2 ")
    assert_refused(protlm(*words, "--invalid", "ignore"), "'ignore': expected one of error, skip")
    write_fasta([("one", "M1")])
    refused = protlm(*words, "--invalid", "skip", *(["--overwrite"] if "embed" in words else []))
    assert_refused(refused, "1 record: skipped, invalid")


def test_evaluate_reports_test_and_ood_and_writes_json(protlm, corpus_path, model_folder, tmp_path: Path) -> None:
    command = ("evaluate", corpus_path, "--model", model_folder, "--device", "cpu")
    plain = protlm(*command)
    assert (plain.code, plain.err) == (0, "")
    assert [line.split()[0] for line in plain.out.splitlines()] == ["split", "test", "ood"]
    names = sorted(tmp_path.iterdir())
    detailed = protlm(*command, "--details", "--json", tmp_path / "e.json")
    assert (detailed.code, detailed.err) == (0, "")
    assert detailed.out.startswith(f"{plain.out}\ntest by length")
    assert detailed.out.count(" by residue ") == 2
    assert sorted(tmp_path.iterdir()) == sorted([*names, tmp_path / "e.json"])
    content = json.loads((tmp_path / "e.json").read_text())
    assert list(content["splits"]) == ["test", "ood"]
    assert content["options"] == {"max_length": 256, "token_budget": 16_384, "share": 0.15, "seed": 1, "device": "cpu"}
    assert content["model"]["path"] == str(model_folder)
    assert content["corpus"]["fingerprint"] == Corpus(corpus_path).fingerprint
    assert protlm(*command, "--json", tmp_path / "e.json").out == plain.out  # replacing an earlier one
    assert json.loads((tmp_path / "e.json").read_text()) == content
    assert protlm(*command, "--seed", 2).out != plain.out


def test_evaluate_checks_arguments_before_it_loads_the_model(
    protlm, corpus_path, model_folder, fasta, tmp_path, monkeypatch
):
    command = ("--model", model_folder, "--device", "cpu")
    assert protlm("prepare", fasta, "-o", tmp_path / "c.h5", "--valid", 0, "--test", 0).code == 0
    names = sorted(tmp_path.iterdir())
    target = tmp_path / "e.json"
    train = "proteins: train\n"
    absent = tmp_path / "absent" / "e.json"
    assert_refused(protlm("evaluate", corpus_path, *command, "--json", absent), f"{absent}: there is no folder")
    monkeypatch.setattr("protlm.model_api.load", None)
    assert_refused(
        protlm("evaluate", tmp_path / "c.h5", *command, "--json", target), "no proteins in test or ood", train
    )
    assert_refused(protlm("evaluate", tmp_path / "c.h5", *command, "--split", "ood"), "no proteins in ood", train)
    assert_refused(protlm("evaluate", corpus_path, *command, "--split", "tset", "--json", target), "split 'tset'")
    assert_refused(protlm("evaluate", corpus_path, *command, "--share", 2), "share 2")
    assert sorted(tmp_path.iterdir()) == names


def test_export_does_not_overwrite_an_existing_folder(protlm, model_folder: Path) -> None:
    assert_refused(protlm("export", model_folder, "--model", model_folder), model_folder, "already exists")


NASTY = {
    "missing": (None, "no such file"),
    "cut short": (gzip.compress(b">a\nMKT\n" * 99)[:-9], "damaged or cut short"),
    "text before": (b"\n;comment\n>a\nMKT\n", "line 2: not FASTA"),
    "NUL": (b">a\nMKT\n>b\nM\0T\n", "record 2 (b), line 4"),
    "NUL in a name": (b">a\0\nMKT\n", "record 1, line 1: NUL"),
    "blank line that is not empty": (b">a\nMKT\n \nM1\n", "record 1 (a), line 4: '1'"),
    "too long": (b">a\n" + b"M" * 1_200_000, "record 1: longer than 1,000,000 characters"),
    "empty": (b"", "is empty"),
    "blank": (b"\n \n", "is empty"),
    "no FASTA": (b"ID   P1\nSQ   MKT\n", "expected FASTA, found UniProt's text format; convert it to FASTA"),
    "nucleotides": (b">a\n" + b"ACGT" * 30, "nucleotides"),
    "digit": (b">a\nMK\nM1\n", "record 1 (a), line 3: '1'"),
    "no identifier": (b">\nMKT\n", "no identifier"),
    "only headers": (b">a\n>b\n", "no record "),
    "random": (b"\x1f\x8b\x08rubbish", "damaged"),
}


@pytest.mark.parametrize("command", ["prepare", "embed"])
@pytest.mark.parametrize(("content", "words"), NASTY.values(), ids=NASTY)
def test_invalid_fasta_is_refused(
    protlm, model_folder: Path, tmp_path: Path, command: str, content: bytes, words: str
) -> None:
    path = tmp_path / "some.fasta"
    if content is not None:
        path.write_bytes(content)
    names = sorted(tmp_path.iterdir())
    options = ("--model", model_folder, "--device", "cpu") if command == "embed" else ()
    assert_refused(protlm(command, path, "-o", tmp_path / "out.h5", *options), path, words)
    assert sorted(tmp_path.iterdir()) == names


@pytest.mark.parametrize("command", ["prepare", "embed"])
def test_nucleotides_are_accepted_on_request(
    protlm, write_fasta, model_folder: Path, tmp_path: Path, command: str
) -> None:
    fasta = write_fasta([("a", "ACGT" * 30)])
    options = ("--model", model_folder, "--device", "cpu") if command == "embed" else ()
    assert protlm(command, fasta, "-o", tmp_path / "out.h5", "--allow-nucleotides", *options).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("prepare FASTA", "Missing option '--output'"),
        ("prepare -o out.h5", "Missing argument"),
        ("prepare FASTA -o out.h5 --split-by family", "--split-by 'family'"),
        ("prepare FASTA -o out.h5 --split-by cluster", "--clusters"),
        ("prepare FASTA -o out.h5 --clusters absent.tsv", "absent.tsv"),
        ("prepare FASTA -o out.h5 --clusters FASTA", "line 1"),
        ("prepare FASTA -o out.h5 --ood absent.txt", "absent.txt"),
        (
            "prepare FASTA -o out.h5 --valid 0.6 --test 0.5",
            "--valid 0.6, --test 0.5: expected fractions",
        ),
        ("prepare FASTA -o out.h5 --valid many", "--valid"),
        ("prepare FASTA -o FASTA", "the output is an HDF5 file; expected a file name that ends in .h5 or .hdf5"),
        ("prepare CORPUS -o CORPUS", "is an input or another output"),
        ("prepare FASTA absent.fasta -o out.h5", "absent.fasta: no such file"),
        ("prepare FASTA -o out.h5 --min-length 0", "--min-length 0"),
        ("prepare FASTA -o out.h5 --min-length 9 --max-length 8", "--min-length 9, --max-length 8"),
        ("prepare FASTA -o out.h5 --min-length 99", "3 records: left out, shorter than 99 residues"),
        ("prepare FASTA -o out.h5 --nonstandard some", "--nonstandard 'some': expected one of keep, drop"),
        ("prepare FASTA -o out.h5 --id name", "--id 'name'"),
        ("prepare FASTA -o out.h5 --workers 0", "--workers 0: expected at least 1"),
        ("prepare - - -o out.h5", "only once"),
        ("info absent.h5", "absent.h5: no such corpus"),
        ("info FASTA", "not a corpus"),
        ("info", "Missing argument"),
        ("prepare FASTA -o absent/out.h5", "there is no folder absent"),
        ("prepare FASTA -o out.h5 --clutsers x", "no such option --clutsers; did you mean --clusters; see:"),
        ("embed FASTA -o out.h5 --model absent", "absent: no such model"),
        ("embed FASTA -o out.h5 --model FASTA", "not a checkpoint"),
        ("embed FASTA -o out.h5 --model MODEL --device abacus", "--device abacus"),
        ("embed FASTA -o out.h5 --model MODEL --token-budget 0", "--token-budget"),
        ("embed FASTA -o out.h5 --model MODEL --per-residue out.h5", "is an input or another output"),
        ("embed CORPUS -o CORPUS --model MODEL", "is an input or another output"),
        ("embed " + 300 * "MK" + " -o out.h5 --model MODEL", "File name too long"),
        ("fill MKT --model MODEL", "no <mask>"),
        ("fill MK<mask>1 --model MODEL", "'1'"),
        ("fill MK<mask> --model", "'--model' requires an argument"),
        ("fill MK<mask> --model MODEL --top 21", "--top"),
        ("evaluate absent.h5 --model MODEL", "absent.h5: no such corpus"),
        ("evaluate FASTA --model MODEL", "not a corpus"),
        ("evaluate FASTA MODEL --model MODEL", "unexpected extra argument"),
        (
            "evaluate CORPUS --model MODEL --json CORPUS",
            "the output is a JSON file",
        ),
        ("evaluate CORPUS --model MODEL --json .", "is a folder"),
        ("evaluate FASTA --model MODEL --seed -1", "--seed"),
        ("export out --model absent", "absent: no such model"),
        ("embedd FASTA", "No such command 'embedd'"),
        ("--nope", "no such option --nope; see:"),
        ("prepare FASTA -o out.h5 --threads 4", "no such option --threads; see:"),
        ("prepare FASTA -o out.h5 -q", "No such option: -q; see:"),
    ],
)
def test_invalid_arguments_are_refused(
    protlm, fasta: Path, model_folder: Path, corpus_path: Path, tmp_path: Path, monkeypatch, arguments: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text, names = fasta.read_text(), sorted(tmp_path.iterdir())
    places = {"FASTA": fasta, "MODEL": model_folder, "CORPUS": corpus_path}
    assert_refused(protlm(*(places.get(word, word) for word in arguments.split())), words)
    assert sorted(tmp_path.iterdir()) == names
    assert fasta.read_text() == text


def test_a_sequence_of_several_lines_is_quoted_in_one(protlm) -> None:
    assert_refused(protlm("fill", ">a\nMK<mask>", "-m", "absent"), ">a MK<mask>: '>' at position 1 is not a residue")


def test_without_arguments_the_help_is_printed(protlm) -> None:
    outcome = protlm()
    assert outcome.code == 2
    for command in ("prepare", "info", "embed", "fill", "evaluate", "export"):
        assert command in outcome.out + outcome.err
    assert "error" not in outcome.err


def test_version_and_help(protlm) -> None:
    assert protlm("--version") == (0, f"{__version__}\n", "")
    assert "--per-residue" in protlm("embed", "--help").out


@pytest.mark.slow
def test_errors_of_the_module_have_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "protlm", "prepare", "absent.fasta", "-o", "out.h5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), "absent.fasta: no such file")


@pytest.mark.slow
def test_ctrl_c_stops_evaluation_and_leaves_nothing(protlm, model_folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "large.fasta").open("w") as file:
        file.writelines(f">p{i}\n{'MKTAYIAKQRQISFVKSHFSRQ' * 20}\n" for i in range(3_000))
    assert protlm("prepare", tmp_path / "large.fasta", "-o", tmp_path / "c.h5", "--test", 0.9).code == 0
    output = tmp_path / "out.json"
    output.write_text("precious")
    names = sorted(tmp_path.iterdir())
    options = ["--json", "out.json", "--max-length", "500", "--device", "cpu"]
    with started(tmp_path, "evaluate", "c.h5", "--model", str(model_folder), *options) as process:
        wait_for_folder(tmp_path, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted; no partial output was left"
    assert sorted(tmp_path.iterdir()) == names
    assert output.read_text() == "precious"


def test_unknown_ids_to_hold_out_are_reported(protlm, fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "ood.txt").write_text("P1\nP2\n")
    outcome = protlm("prepare", fasta, "-o", tmp_path / "c.h5", "--ood", tmp_path / "ood.txt")
    assert outcome.err.rstrip().endswith("warning: 1 identifier to hold out not in the files: P2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_interrupted_prepare_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int, message: str) -> None:
    output = tmp_path / "out.h5"
    output.write_text("precious")
    with started(tmp_path, "prepare", "-", "-o", "out.h5") as process:
        assert process.stdin
        process.stdin.write(">a\nMKT\n>b\nMK")  # and then it waits for more
        process.stdin.flush()
        wait_for_folder(tmp_path, process)
        process.send_signal(number)
        assert process.wait(timeout=120) == code
        assert process.communicate() == ("", f"{message}; no partial output was left\n")
    assert list(tmp_path.iterdir()) == [output]
    assert output.read_text() == "precious"


@pytest.mark.parametrize("command", ["embed -o out.h5", "fill", "score --all", "score --pseudo-perplexity"])
@pytest.mark.parametrize("content", ["some words", ">a\nM1\n", ">P1;a\ntext\nMKT*\n"])
def test_inputs_are_checked_before_a_model_is_loaded(protlm, tmp_path, monkeypatch, command: str, content: str) -> None:
    """So that their errors come before those of the model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.fasta").write_text(content)
    name, *options = command.split()
    assert_refused(protlm(name, "in.fasta", *options, "-m", "absent"), "in.fasta")
    if name == "embed":
        (tmp_path / "in.fasta").write_text(">a\nMKT\n")
        outcome = protlm("embed", "in.fasta", "-o", "absent/out.h5", "-m", "absent")
        assert_refused(outcome, "there is no folder absent")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [["relu"], ["exact", "window"]])
def test_inference_imports_no_more_than_it_needs(
    kind: list[str], tiny_model, causal_model, write_fasta, corpus_path: Path, tmp_path: Path
) -> None:
    """torch._dynamo, torchmetrics (which imports transformers) and others take seconds of each command."""
    commands, scores = [], []
    for number, attention in enumerate(kind):
        for name, model in (("model", tiny_model), ("causal", causal_model)):
            model.switch_attention(attention)
            export(model, tmp_path / f"{name}{number}")
        commands += [
            ["fill", "MK<mask>LLI", "-m", f"model{number}"],
            ["embed", str(write_fasta([("a", "MKTAYIAKQR")])), "-o", f"out{number}.h5", "-m", f"model{number}"],
            ["generate", "--max-length", "9", "-m", f"causal{number}"],
            ["evaluate", str(corpus_path), "-m", f"model{number}"],
        ]
        scores += [["score", "MKTAYIAKQR", "--variant", "A4G", "-m", f"{name}{number}"] for name in ("model", "causal")]
    script = (
        "import sys, protlm.cli\n"
        f"for commands in {(commands, scores)!r}:\n"
        "    for command in commands:\n"
        "        sys.argv = ['protlm', *command, '--device', 'cpu']\n"
        "        protlm.cli.main()\n"
        "    print('loaded', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    first, last = (set(line.split()) for line in done.stdout.splitlines() if line.startswith("loaded "))
    assert "torch" in first
    assert "Bio" not in first  # scores take BLOSUM62 from it
    assert not {"torch._dynamo", "torchmetrics", "transformers", "scipy", "matplotlib", "sympy", "pandas"} & last
