import csv
import gzip
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from protlm.checkpoint import export
from protlm.inference.fill import predict_masked, probabilities
from protlm.inference.generate import generate
from protlm.performer import Performer
from protlm.sequence.alphabet import STANDARD
from protlm.sequence.fasta import FastaFile


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands run in the test's folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def causal_folder(causal_model: Performer, tmp_path: Path) -> Path:
    export(causal_model, tmp_path / "causal")
    return tmp_path / "causal"


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    path = tmp_path / "masked.fasta.gz"
    path.write_bytes(gzip.compress(b">sp|P1|A_B one\nMK<mask>LLI\n<ma\nsk>*\n>b\nm<mask>kx\n"))
    return path


EXPECTED = {"P1": "MK<mask>LLI<mask>", "b": "M<mask>KX"}


def expected_rows(model: Performer, top: int) -> list[tuple[str, int, int, str, float]]:
    return [
        (name, one.position, rank, residue, pytest.approx(p, rel=1e-4))
        for name, text in EXPECTED.items()
        for one in predict_masked(model, text, top)
        for rank, (residue, p) in enumerate(zip(one.residues, one.probabilities, strict=True), start=1)
    ]


def read_tsv(text: str) -> list[tuple[str, int, int, str, float]]:
    header, *rows = csv.reader(io.StringIO(text), delimiter="\t")
    assert header == ["protein", "position", "rank", "residue", "probability"]
    return [(name, int(position), int(rank), residue, float(p)) for name, position, rank, residue, p in rows]


def test_a_fasta_file_becomes_a_table(protlm, tiny_model, model_folder, masked, tmp_path, monkeypatch) -> None:
    command, expected = ("fill", "--model", model_folder, "--device", "cpu", "--top", 3), expected_rows(tiny_model, 3)
    printed = protlm(*command, masked)
    assert printed.code == 0
    rows = [line.split() for line in printed.out.splitlines()[1:]]
    assert [(a, int(b), int(c), d) for a, b, c, d, _ in rows] == [row[:4] for row in expected]
    assert "1 record: final stop removed" in printed.err
    assert read_tsv(protlm(*command, masked, "--format", "tsv").out) == expected
    found = [tuple(row.values()) for row in json.loads(protlm(*command, masked, "--format", "json").out)]
    assert found == expected
    for name, options in (("a.tsv", ()), ("a.json", ()), ("b.txt", ("--format", "tsv"))):
        assert protlm(*command, masked, "-o", name, *options).out == ""
        text = (tmp_path / name).read_text()
        assert text.startswith("[" if name == "a.json" else "protein\t")
    assert read_tsv((tmp_path / "a.tsv").read_text()) == read_tsv((tmp_path / "b.txt").read_text()) == expected
    with masked.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        assert read_tsv(protlm(*command, "-", "--format", "tsv").out) == expected
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("options", [(), ("--one-pass",)])
def test_a_matrix_holds_several_proteins(protlm, tiny_model, model_folder, masked, tmp_path, options) -> None:
    done = protlm("fill", masked, "-m", model_folder, "--matrix", "m.tsv", "--top", 2, "--format", "tsv", *options)
    assert done.code == 0
    assert read_tsv(done.out) == expected_rows(tiny_model, 2)
    header, *rows = csv.reader((tmp_path / "m.tsv").read_text().splitlines(), delimiter="\t")
    assert header == ["protein", "position", "residue", *STANDARD]
    for name, text in EXPECTED.items():
        part = [row for row in rows if row[0] == name]
        assert "".join(row[2] for row in part) == text
        assert [int(row[1]) for row in part] == list(range(1, len(part) + 1))
        values = np.array([row[3:] for row in part], dtype=float)
        np.testing.assert_allclose(values, probabilities(tiny_model, text, one_pass=bool(options)), rtol=1e-4)


def test_pictures_do_not_require_masks(protlm, model_folder, tmp_path) -> None:
    done = protlm("fill", "MKTAYIAK", "-m", model_folder, "--logo", "l.png", "--heatmap", "h.svg")
    assert done == (0, "", "")
    assert (tmp_path / "l.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "h.svg").read_text()


def test_new_proteins_are_fasta(protlm, causal_model, causal_folder, tmp_path) -> None:
    options = ("--prefix", "MK", "-n", 3, "--max-length", 30, "--seed", 7, "--top-p", 0.9, "--temperature", 0.8)
    printed = protlm("generate", "-m", causal_folder, "--device", "cpu", *options)
    assert printed.code == 0
    expected = list(generate(causal_model, 3, "MK", 0.8, 0.9, 30, 7))
    assert printed.out == "".join(one.fasta(temperature=0.8, top_p=0.9, seed=7) for one in expected)
    summary, settings = printed.err.splitlines()
    assert re.match(r"standard output: 3 proteins, [\d,]+ residues, perplexity \d+\.\d\d; \d complete, \d cut", summary)
    assert settings == f"model {causal_folder}, prefix MK, temperature 0.8, top_p 0.9, seed 7"
    written = protlm("generate", "-m", causal_folder, *options, "-o", "new.fasta", "--batch-size", 2)
    assert (written.code, written.out) == (0, "")
    assert [record.sequence for record in FastaFile(tmp_path / "new.fasta")] == [one.sequence for one in expected]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fill MK<cls> -m MODEL", "'<cls>' at position 3 is not a residue: expected the letters A to Z, '*'"),
        ("fill absent.fasta -m MODEL", "absent.fasta: neither an existing file nor a sequence, such as MKT<mask>LLI"),
        ("fill . -m MODEL", ".: is a folder"),
        ("fill empty.fasta -m MODEL", "empty.fasta: is empty"),
        ("fill hollow.fasta -m MODEL", "hollow.fasta: no record has a sequence"),
        ("fill plain.fasta -m MODEL", "plain.fasta, protein 'b': no <mask>"),
        ("fill odd.fasta -m MODEL", "odd.fasta, record 2 (b), line 5: '1' at position 3"),
        ("fill odd.fasta -m MODEL --format tsv", "odd.fasta, record 2 (b), line 5"),
        ("fill odd.fasta -m MODEL -o out.tsv --matrix out2.tsv", "odd.fasta, record 2 (b), line 5"),
        ("fill MASKED -m CAUSAL", "use generate or score"),
        ("fill MASKED -m CAUSAL --matrix out.tsv", "use generate or score"),
        (
            "fill MASKED -m MODEL -o out.csv",
            "out.csv: the output is a table; expected a file name that ends in .tsv, .txt",
        ),
        ("fill MASKED -m MODEL -o out.tsv --format table", "--format tsv or json"),
        ("fill MASKED -m MODEL --format csv", "--format 'csv': expected table, tsv or json"),
        ("fill MASKED -m MODEL -o absent/out.tsv", "there is no folder absent"),
        (
            "fill MASKED -m MODEL --matrix MASKED",
            "expected a file name that ends in .tsv or .txt, or -",
        ),
        ("fill MASKED -m MODEL -o out.tsv --matrix out.tsv", "is an input or another output"),
        ("fill MASKED -m MODEL --matrix .", "is a folder"),
        ("fill MASKED -m MODEL -o MODEL/config.json", "is an input or another output"),
        ("fill MASKED -m MODEL --logo out.png", "several proteins; a logo or heat map shows exactly one"),
        (
            "fill M<mask> -m MODEL --heatmap out.jpg",
            "out.jpg: the output is a picture",
        ),
        ("fill LONG -m MODEL --heatmap out.png", "2,001 residues are too many"),
        ("fill M<mask> -m MODEL --precision float8", "precision 'float8': expected one of float32, bfloat16"),
        ("generate -m MODEL", "generate requires a causal model"),
        ("generate -m CAUSAL -n 0", "-n"),
        ("generate -m CAUSAL --temperature -1", "--temperature -1.0: expected a number of at least 0"),
        ("generate -m CAUSAL --temperature nan -o out.fasta", "--temperature nan"),
        ("generate -m CAUSAL --top-p 0 -o out.fasta", "--top-p 0.0"),
        ("generate -m CAUSAL --prefix MK1 -o out.fasta", "--prefix: '1' at position 3"),
        ("generate -m CAUSAL --prefix MKT --max-length 3", "--max-length 3: expected more than the 3 residues"),
        ("generate -m CAUSAL -o .", "is a folder"),
        ("generate -m CAUSAL -o absent/out.fasta", "there is no folder absent"),
        ("generate -m CAUSAL -o CAUSAL/config.json", "the output is a FASTA file"),
        ("generate", "expected --model MODEL or the environment variable PROTLM_MODEL, a causal model"),
    ],
)
def test_invalid_input_is_one_line_and_leaves_nothing(
    protlm, model_folder, causal_folder, masked, tmp_path, arguments: str, words: str
) -> None:
    (tmp_path / "empty.fasta").touch()
    (tmp_path / "hollow.fasta").write_text(">a\n>b\n")
    (tmp_path / "plain.fasta").write_text(">a\nM<mask>\n>b\nMKT\n")
    (tmp_path / "odd.fasta").write_text(">a\nM<mask>\n>b\nM\n<mask>1\n")
    for name, value in {"MODEL": model_folder, "CAUSAL": causal_folder, "MASKED": masked, "LONG": "M" * 2001}.items():
        arguments = arguments.replace(name, str(value))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    outcome = protlm(*arguments.split())
    assert outcome.code == 2
    assert outcome.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", outcome.err)
    assert words in outcome.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
