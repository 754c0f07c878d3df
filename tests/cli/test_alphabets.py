"""Commands with models of DNA and bytes: what works, and what is refused in one line."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from protlm.checkpoint import export
from protlm.inference.fill import predict_masked, probabilities
from protlm.inference.perplexity import pseudo_perplexity
from tests.command import assert_refused
from tests.test_alphabets import model_of


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("dna", "bytes"):
        export(model_of(name), tmp_path / name)
    export(model_of("bytes", causal=True), tmp_path / "causal")
    (tmp_path / "g.fa").write_text(">a\nac\n<mask>GT\n>b\n<mask>A\n")
    return tmp_path


def read_tsv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text), delimiter="\t"))


def test_fill_of_bases(protlm) -> None:
    done = protlm("fill", "acgt<mask>ACC", "--model", "dna")
    assert done.code == 0
    header, *rows = (line.split() for line in done.out.splitlines())
    assert header == ["sequence", "position", "rank", "base", "probability"]
    (found,) = predict_masked(model_of("dna"), "ACGT<mask>ACC")
    assert [row[1:4] for row in rows] == [["5", str(i), base] for i, base in enumerate(found.residues, 1)]


def test_fill_of_a_file_of_bases(protlm, folder) -> None:
    done = protlm("fill", "g.fa", "--model", "dna", "--top", 2, "-o", "out.tsv", "--matrix", "m.tsv")
    assert (done.code, done.err) == (0, "1 record: lower case made upper case (2 bases)\n")
    header, *rows = read_tsv((folder / "out.tsv").read_text())
    assert header == ["sequence", "position", "rank", "base", "probability"]
    assert [(row[0], row[1]) for row in rows] == [("a", "3")] * 2 + [("b", "1")] * 2
    header, *rows = read_tsv((folder / "m.tsv").read_text())
    assert header == ["sequence", "position", "base", *"ACGT"]
    assert [row[2] for row in rows] == ["A", "C", "<mask>", "G", "T", "<mask>", "A"]
    values = np.array([row[3:] for row in rows[:5]], dtype=float)
    np.testing.assert_allclose(values, probabilities(model_of("dna"), "AC<mask>GT"), rtol=1e-4)


def test_pictures_of_bases(protlm, folder) -> None:
    done = protlm("fill", "ACGT<mask>ACC", "--model", "dna", "--logo", "l.svg", "--heatmap", "h.svg")
    assert done.code == 0
    assert "base of the sequence" in (folder / "h.svg").read_text()
    assert "<svg" in (folder / "l.svg").read_text()


def test_fill_of_bytes(protlm, folder, monkeypatch) -> None:
    (folder / "t.txt").write_bytes(b"The <mask>\n")
    top = ("--top", 256, "--model", "bytes", "--format")
    header, *rows = read_tsv(protlm("fill", "t.txt", *top, "tsv").out)
    assert header == ["document", "position", "rank", "byte", "probability"]
    (found,) = predict_masked(model_of("bytes"), b"The <mask>\n", 256)
    assert [row[3] for row in rows] == ["<0x20>" if one == " " else one for one in found.residues]
    assert {'"', "<0x20>", "<0x0A>", "<0x09>"} <= {row[3] for row in rows}
    assert {tuple(row[:2]) for row in rows} == {("t.txt", "5")}
    assert [one["byte"] for one in json.loads(protlm("fill", "t.txt", *top, "json").out)] == [row[3] for row in rows]
    with (folder / "t.txt").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        done = protlm("fill", "-", *top, "tsv")
    assert (done.code, done.err) == (0, "")
    assert [row[3] for row in read_tsv(done.out)[1:]] == [row[3] for row in rows]
    typed = read_tsv(protlm("fill", "\udcff<mask>", *top, "tsv").out)  # an argument that is not UTF-8
    (expected,) = predict_masked(model_of("bytes"), b"\xff<mask>")
    assert [row[3] for row in typed[1:6]] == list(expected.residues)


@pytest.mark.parametrize("name", ["dna", "bytes", "causal"])
def test_perplexities_of_whole_sequences(protlm, folder, name: str) -> None:
    (folder / "whole.fa").write_text(">a\nACGN\n>b\nGG\n")
    done = protlm("score", "whole.fa", "--pseudo-perplexity", "--model", name)
    assert done.code == 0
    header, *rows = read_tsv(done.out)
    assert header == ["id", "length", "perplexity" if name == "causal" else "pseudo_perplexity"]
    model = model_of("bytes", causal=True) if name == "causal" else model_of(name)
    texts = ["ACGN", "GG"] if name == "dna" else [(folder / "whole.fa").read_bytes()]
    np.testing.assert_allclose([float(row[2]) for row in rows], pseudo_perplexity(model, texts), atol=1e-4)
    assert ("2 sequences, 6 bases" if name == "dna" else "1 document, 14 bytes") in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fill ACLT<mask> --model dna", "ACLT<mask>: 'L' at position 3 is not a base: expected one of ACGT"),
        ("fill ACGT --model dna", "sequence: no <mask>; put one in place of each base to predict"),
        ("fill absent.fa --model dna", "absent.fa: neither an existing file nor a sequence of bases, with <mask>"),
        ("fill absent.txt --model bytes", "absent.txt: neither an existing file nor a document of bytes, with <mask>"),
        ("fill plain.txt --model bytes", "plain.txt, document 'plain.txt': no <mask>; put one in place of each byte"),
        ("fill empty.txt --model bytes", "empty.txt: no record has a sequence"),
        ("fill plain.txt --model dna", "plain.txt: expected FASTA records"),
        ("fill odd.fa --model dna", "odd.fa, record 1 (a), line 3: 'L' at position 4 is not a base"),
        ("fill g.fa --model dna --top 5", "--top 5: expected 1 to 4"),
        ("fill g.fa --model dna --invalid skip", "--invalid is only for proteins; the model is of bases"),
        ("fill g.fa --model dna --logo l.png", "several sequences; a logo or heat map shows exactly one"),
        ("fill a<mask> --model bytes --logo l.png", "256 bytes are too many for a picture; write the"),
        ("fill a<mask> --model causal", "a causal one cannot see bytes after a mask"),
        (
            "score MKTAY --all --model dna",
            "dna: a model of bases (dna); variants, BLOSUM62 and homologs are of proteins",
        ),
        ("score absent --pseudo-perplexity --model bytes", "absent: neither an existing file nor a document of bytes"),
        ("contacts MKTAY --model dna -o out", "dna: a model of bases (dna); contacts are of residues of proteins"),
        ("annotate p.fa --reference p.fa --labels l.csv --model dna", "(dna); labels are transferred between proteins"),
        ("map g.fa --model bytes -o out", "a model of bytes; embed the sequences with it (protlm embed"),
        ("predict p.fa --model dna -o out.csv", "dna: no fitted head there"),
        ("linearise dna -o out --fasta p.fa", "dna: a model of bases (dna); this is for models of proteins"),
        ("proteingym assays --model dna", "dna: a model of bases (dna); ProteinGym's assays are of proteins"),
        ("export out --model bytes --format esm", "a model of bytes; --format esm has the tokens of proteins"),
    ],
)
def test_what_is_refused_is_one_line(protlm, folder, arguments: str, words: str) -> None:
    (folder / "empty.txt").touch()
    (folder / "plain.txt").write_text("plain")
    (folder / "odd.fa").write_text(">a\nA<mask>\nGLT\n")
    (folder / "p.fa").write_text(">a\nMKTAYIAKQR\n>b\nMKTLLIAKQL\n")
    (folder / "l.csv").write_text("id,sequence,label\na,MKTAYIAKQR,x\nb,MKTLLIAKQL,y\n")
    (folder / "assays").mkdir()
    (folder / "assays" / "wt.fasta").write_text(">some\nMKTAYIAKQR\n")
    (folder / "assays" / "some.csv").write_text("mutant,DMS_score\nK2R,1\nT3A,2\n")
    before = sorted(folder.rglob("*"))
    assert_refused(protlm(*arguments.split()), words)
    assert sorted(folder.rglob("*")) == before


def test_fit_of_a_model_of_bases_is_refused(protlm, folder) -> None:
    (folder / "l.csv").write_text("sequence,label\nMKTAYIAKQR,x\nMKTLLIAKQL,y\n")
    done = protlm("fit", "l.csv", "--model", "dna", "-o", "out")
    assert done.code == 2
    assert re.search(
        r"\nerror: .*dna: a model of bases \(dna\); this is for models of proteins; with [^\n]*\n$", done.err
    )
    assert not (folder / "out").exists()


def test_a_map_of_bases_is_of_sequences(protlm, folder) -> None:
    (folder / "many.fa").write_text("".join(f">{i}\nACGT{'ACGT'[i]}\n" for i in range(4)))
    assert protlm("embed", "many.fa", "--model", "dna", "-o", "e.h5").code == 0
    done = protlm("map", "e.h5", "-o", "map")
    assert done.err.startswith("4 sequences, PC1")
    page = (folder / "map" / "map.html").read_text()
    assert "4 sequences; PCA" in page
    assert "point at a sequence" in page
    assert "protein" not in page.partition("<script")[0]


def test_help_of_generate_is_for_every_alphabet(protlm) -> None:
    shown = " ".join(re.sub("[│|]", " ", protlm("generate", "--help").out).split())  # without its boxes
    assert "Sequences generated together" in shown
    assert "residues (bases," in shown


def test_a_genome_without_its_alphabet_is_told_of_it(protlm, folder) -> None:
    (folder / "long.fa").write_text(">chr1\n" + "ACGT" * 300_000 + "\n")
    done = protlm("prepare", "long.fa", "-o", "long.h5")
    assert_refused(done, "looks like nucleotides", "--alphabet dna or rna")
