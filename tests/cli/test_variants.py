import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from protlm.checkpoint import export, load
from protlm.inference.perplexity import pseudo_perplexity
from protlm.performer import Performer, PerformerConfig
from protlm.variants.score import score, score_matrix
from tests.command import assert_refused

SEQUENCE = "MKTAYIAKQR"


@pytest.fixture
def variants(tmp_path: Path) -> Path:
    path = tmp_path / "variants.csv"
    path.write_text("note,DMS_score_bin,mutant,DMS_score\na,1,M1L,0.5\nb,0,K2R:Y5F,\nc,1,T3A,2\n")
    return path


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_table_is_written_in_the_columns_of_proteingym(protlm, model_folder: Path, variants: Path) -> None:
    outcome = protlm("score", SEQUENCE, "-m", model_folder, "--variants", variants)
    rows = table(outcome.out)
    ours = ["protlm_score", "percentile", "effective_sequences", "blosum62_only", "reason", "blosum62", "model"]
    assert list(rows[0]) == ["mutant", "mutated_sequence", "DMS_score", "DMS_score_bin", "note", *ours]
    assert [row["mutated_sequence"] for row in rows] == ["LKTAYIAKQR", "MRTAFIAKQR", "MKAAYIAKQR"]
    assert [row["DMS_score"] for row in rows] == ["0.5", "", "2"]
    expected = score(load(model_folder), SEQUENCE, ["M1L", "K2R:Y5F", "T3A"])
    np.testing.assert_allclose([float(row["protlm_score"]) for row in rows], expected, atol=1e-5)
    assert outcome.err.splitlines()[0] == "3 variants of 1 protein"
    assert re.search(r"Spearman's correlation with DMS_score of 2 variants: -?1\.000", outcome.err)


def test_a_file_is_replaced_atomically(protlm, model_folder: Path, variants: Path, tmp_path: Path, write_fasta) -> None:
    fasta, output = write_fasta([("a", SEQUENCE)]), tmp_path / "scores.csv"
    output.write_text("old")
    assert protlm("score", fasta, "-m", model_folder, "--variants", variants, "-o", output).code == 0
    assert len(table(output.read_text())) == 3
    before = output.read_bytes()
    variants.write_text("mutant\nM1L\nA9G\n")
    assert_refused(
        protlm("score", fasta, "-m", model_folder, "--variants", variants, "-o", output),
        f"{variants}, row 2, variant A9G: position 9 of the wild type is Q, not A",
    )
    assert output.read_bytes() == before


def test_all_singles_and_their_picture(protlm, model_folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "map.png"
    outcome = protlm("score", SEQUENCE, "-m", model_folder, "--all", "--method", "wt-marginals", "--heatmap", picture)
    rows = table(outcome.out)
    assert len(rows) == 190
    assert list(rows[0])[:3] == ["mutant", "mutated_sequence", "protlm_score"]
    assert (rows[0]["mutant"], rows[0]["mutated_sequence"]) == ("M1A", "AKTAYIAKQR")
    values = score_matrix(load(model_folder), SEQUENCE, "wt-marginals")
    assert float(rows[0]["protlm_score"]) == pytest.approx(values[0, 0], abs=1e-5)
    assert picture.read_bytes().startswith(b"\x89PNG")
    short = protlm("score", SEQUENCE, "-m", model_folder, "--all", "--method", "wt-marginals", "--no-sequences")
    assert table(short.out) == [
        {name: cell for name, cell in row.items() if name != "mutated_sequence"} for row in rows
    ]


def test_variants_can_be_given_one_by_one(protlm, model_folder: Path) -> None:
    outcome = protlm("score", SEQUENCE, "-m", model_folder, "--variant", "M21L", "--variant", "K22R", "--offset", 20)
    assert [row["mutated_sequence"] for row in table(outcome.out)] == ["LKTAYIAKQR", "MRTAYIAKQR"]


def test_rows_can_name_their_protein(protlm, model_folder: Path, write_fasta, tmp_path: Path) -> None:
    fasta, path = write_fasta([("a", SEQUENCE), ("b", "GAVLI")]), tmp_path / "v.csv"
    path.write_text("mutant,protein\nM1L,a\nG1A,b\nK2R,a\n")
    rows = table(protlm("score", fasta, "-m", model_folder, "--variants", path).out)
    model = load(model_folder)
    expected = [score(model, s, [v])[0] for s, v in ((SEQUENCE, "M1L"), ("GAVLI", "G1A"), (SEQUENCE, "K2R"))]
    assert [row["protein"] for row in rows] == ["a", "b", "a"]
    np.testing.assert_allclose([float(row["protlm_score"]) for row in rows], expected, atol=1e-5)
    path.write_text("mutant\nM1L\n")
    refused = protlm("score", fasta, "-m", model_folder, "--variants", path)
    assert_refused(refused, f"{fasta}: 2 proteins; expected one unless the table of variants has a column 'protein'")
    assert_refused(protlm("score", fasta, "-m", model_folder, "--all"), "2 proteins; expected one")


@pytest.fixture
def causal_folder(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Performer(PerformerConfig(33, 1, 1, 2, 8, 8, causal=True, num_features=8, positions="rotary")).eval()
    export(model, tmp_path / "causal")
    return tmp_path / "causal"


def test_causal_models_score_by_likelihood(protlm, causal_folder: Path) -> None:
    rows = table(protlm("score", SEQUENCE, "-m", causal_folder, "--variant", "M1L").out)
    expected = score(load(causal_folder), SEQUENCE, ["M1L"], "likelihood")[0]
    assert float(rows[0]["protlm_score"]) == pytest.approx(expected, abs=1e-5)
    for method in ("masked-marginals", "wt-marginals", "pseudo-log-likelihood"):
        refused = protlm("score", SEQUENCE, "-m", causal_folder, "--variant", "M1L", "--method", method)
        assert_refused(refused, method, "requires a bidirectional model", "expected likelihood")


def test_pseudo_perplexities_are_a_table(protlm, model_folder: Path, causal_folder: Path, write_fasta) -> None:
    fasta = write_fasta([("sp|P1|A_B", SEQUENCE), ("b", "gavli")])
    for folder, options, name in (
        (model_folder, [], "pseudo_perplexity"),
        (model_folder, ["--one-pass"], "pseudo_perplexity"),
        (causal_folder, [], "perplexity"),
    ):
        outcome = protlm("score", fasta, "-m", folder, "--pseudo-perplexity", *options)
        header, *rows = [line.split("\t") for line in outcome.out.splitlines()]
        assert header == ["id", "length", name]
        assert [row[:2] for row in rows] == [["P1", "10"], ["b", "5"]]
        expected = pseudo_perplexity(load(folder), [SEQUENCE, "GAVLI"], exact=not options)
        np.testing.assert_allclose([float(row[2]) for row in rows], expected, atol=1e-4)
        assert outcome.err.splitlines()[0] == "2 proteins, 15 residues"


def test_one_pass_depends_on_the_masking(protlm, model_folder: Path) -> None:
    ways = ["--masking", "0.1,0.8,0.1"], []
    common = ("score", SEQUENCE, "-m", model_folder, "--pseudo-perplexity", "--one-pass")
    first, second = (protlm(*common, *way).out for way in ways)
    assert first != second
    assert_refused(protlm(*common, "--masking", "0.8,0.2"), "expected three fractions")
    assert_refused(protlm(*common, "--masking", "0.8,0.2,0.2"), "sum to 1")
    assert_refused(protlm(*common, "--masking", "0.9,0,0.1"), "trained with randomly replaced residues")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["expected one of --variants FILE"]),
        (["--all", "--variant", "M1L"], ["expected one of --variants FILE"]),
        (["--all", "--pseudo-perplexity"], ["expected one of --variants FILE"]),
        (["--pseudo-perplexity", "--method", "wt-marginals"], ["omit them with --pseudo-perplexity"]),
        (["--all", "--one-pass"], ["--one-pass requires --pseudo-perplexity"]),
        (["--variant", "M1L", "--no-sequences"], ["--no-sequences requires --all"]),
        (["--variants", "none.csv"], ["none.csv: no such file"]),
        (["--variants", "."], [".: is a folder"]),
        (["--all", "--method", "best"], ["method 'best'"]),
        (["--all", "--precision", "float8"], ["precision 'float8'"]),
        (["--all", "-o", "no/folder.csv"], ["there is no folder no"]),
        (["--all", "-o", "."], ["is a folder"]),
        (["--all", "--heatmap", "map.gif"], ["map.gif", ".png"]),
        (["--all", "--heatmap", "map.png", "-o", "map.png"], ["map.png: the output is a table"]),
        (["--variant", "A42G"], ["variants, row 1, variant A42G: position 42 is outside"]),
        (["--variant", ""], ["row 1: empty"]),
        (["--all", "--column", "x"], ["--column requires --variants"]),
        (["--all", "--invalid", "nan"], ["--invalid nan requires --variants or --variant"]),
        (["--all", "--invalid", "drop"], ["--invalid 'drop': expected one of error, skip, nan"]),
        (
            ["--variant", "A4?", "--variant", "K4del"],
            ["variant A4?", "1 more row is invalid", "set --invalid to 'skip'"],
        ),
        (["--variant", "A4?", "--invalid", "skip"], ["variants, row 1, variant A4?"]),
        (["--all", "--scorer", "best"], ["--scorer 'best': expected auto or one of blosum62"]),
        (["--all", "--scorer", "profile"], ["--scorer profile: requires homologs"]),
        (["--all", "--scorer", "blend"], ["--scorer blend: requires homologs"]),
        (["--all", "--html", "map.png"], ["map.png: the output is a page"]),
        (["--all", "--alignment", "a.a3m", "--database", "b.fasta"], ["expected one of --database and --alignment"]),
        (["--all", "--alignment", "none.a3m"], ["none.a3m: no such file"]),
        (["--pseudo-perplexity", "--alignment", "a.a3m"], ["omit them with --pseudo-perplexity"]),
    ],
)
def test_invalid_options_are_refused(protlm, model_folder, tmp_path, monkeypatch, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert_refused(protlm("score", SEQUENCE, "-m", model_folder, *arguments), *words)
    assert sorted(tmp_path.iterdir()) == before


def test_measurements_must_be_numbers(protlm, model_folder: Path, variants: Path) -> None:
    variants.write_text("mutant,DMS_score\nM1L,high\n")
    refused = protlm("score", SEQUENCE, "-m", model_folder, "--variants", variants)
    assert_refused(refused, "row 1: DMS_score is 'high'; expected a finite number")


def test_invalid_rows_are_left_out_or_written_without_a_score(
    protlm, model_folder: Path, variants: Path, tmp_path: Path
) -> None:
    variants.write_text("Effect,DMS_score\nM1L,NA\nA4?,1\nK2R,2\nK4del,3\nT3A,4\n,,\n")
    run = ("score", SEQUENCE, "-m", model_folder, "--variants", variants, "--column", "effect")
    refused = protlm(*run)
    assert_refused(refused, f"{variants}, row 2, variant A4?: ", "1 more row is invalid", "set --invalid to 'skip'")
    scores = score(load(model_folder), SEQUENCE, ["M1L", "K2R", "T3A"])
    for invalid, names, fate, word in (
        ("skip", ["M1L", "K2R", "T3A"], "left out", "skipped"),
        ("nan", ["M1L", "A4?", "K2R", "K4del", "T3A"], "without a score", "no score"),
    ):
        outcome = protlm(*run, "--invalid", invalid, "--heatmap", tmp_path / "map.png")
        rows = table(outcome.out)
        assert [row["Effect"] for row in rows] == names
        found = [float(row["protlm_score"]) for row in rows if row["protlm_score"]]
        np.testing.assert_allclose(found, scores, atol=1e-5)
        lines = outcome.err.splitlines()
        assert lines[0] == "3 variants of 1 protein"
        assert lines[2] == f"{variants}: 2 of 5 rows invalid, {fate}"
        assert [line.partition(":")[0] for line in lines[3:5]] == [word, word]
        assert "DMS_score of 2 variants" in lines[5]
        reasons = [row["reason"].partition(":")[0] for row in rows]
        assert reasons == (["", "variant A4?", "", "variant K4del", ""] if invalid == "nan" else [""] * 3)


def test_variants_that_cannot_be_scored_have_a_reason_and_do_not_stop(protlm, model_folder: Path) -> None:
    names = ["M1L", "A4*", "p.Lys2fs", "A4del", "p.Lys2_Thr3insGly", "WT"]
    typed = [part for name in names for part in ("--variant", name)]
    outcome = protlm("score", SEQUENCE, *typed)
    assert outcome.code == 0
    rows = table(outcome.out)
    needs = "insertion or deletion: requires homologs or a model"
    assert [row["reason"] for row in rows] == ["", "stop gained at residue 4", "frameshift", needs, needs, ""]
    assert [row["protlm_score"] for row in rows] == ["2.000000", "", "", "", "", "0.000000"]
    assert [row["blosum62_only"] for row in rows] == ["True", "", "", "", "", "True"]
    assert f"4 variants without a score: 2 {needs}, 1 stop gained, 1 frameshift" in outcome.err
    rows = table(protlm("score", SEQUENCE, "-m", model_folder, *typed).out)
    assert [bool(row["protlm_score"]) for row in rows] == [True, False, False, True, True, True]
    assert [row["mutated_sequence"] for row in rows[3:5]] == ["MKTYIAKQR", "MKGTAYIAKQR"]


def test_without_homologs_and_model_the_answer_is_blosum62(protlm) -> None:
    outcome = protlm("score", SEQUENCE, "--all")
    rows = table(outcome.out)
    assert {row["mutant"]: row["protlm_score"] for row in rows}["K2R"] == "2.000000"
    assert all(row["protlm_score"] == row["blosum62"] and row["blosum62_only"] == "True" for row in rows)
    assert "scorer: blosum62, which knows nothing of this protein" in outcome.err
    percentiles = np.array([float(row["percentile"]) for row in rows])
    assert percentiles.mean() == pytest.approx(50, abs=0.1)
    assert_refused(protlm("score", SEQUENCE, "--all", "--method", "wt-marginals"), "--method requires --model")


def test_a_page_of_a_giant_is_refused(protlm, tmp_path: Path) -> None:
    refused = protlm("score", "MKTAYIAKQR" * 501, "--variant", "M1L", "--html", tmp_path / "x.html")
    assert_refused(refused, "5,010 residues are too many for a page; expected at most 5,000")


def test_columns_of_the_table_keep_their_names(protlm, variants: Path) -> None:
    variants.write_text("mutant,Reason,model\nM1L,mine,x\n")
    (row,) = table(protlm("score", SEQUENCE, "--variants", variants).out)
    assert (row["Reason"], row["model"], row["protlm_reason"]) == ("mine", "x", "")


def test_a_protein_without_amino_acids_has_no_variants(protlm, model_folder: Path) -> None:
    assert_refused(protlm("score", "XXX", "-m", model_folder, "--all"), "none of the twenty amino acids")


def test_inputs_are_not_overwritten(protlm, model_folder: Path, variants: Path, write_fasta) -> None:
    fasta = write_fasta([("a", SEQUENCE)])
    for output, words in ((fasta, "the output is a table"), (variants, "is an input or another output")):
        refused = protlm("score", fasta, "-m", model_folder, "--variants", variants, "-o", output)
        assert_refused(refused, words)
    for protein in ("no.fasta", "MKT1"):
        assert_refused(protlm("score", protein, "-m", model_folder, "--all"), "neither an existing file nor a sequence")


def test_typed_nucleotides_are_refused_like_those_in_a_file(protlm, write_fasta) -> None:
    dna = "ACGT" * 8
    for protein in (dna, dna.lower(), write_fasta([("dna", dna)])):
        refused = protlm("score", protein, "--all")
        assert_refused(refused, "looks like nucleotides, not proteins (100% of the letters")
        assert "if these are proteins, set --allow-nucleotides" in refused.err
    assert protlm("score", dna, "--variant", "A1C", "--allow-nucleotides").code == 0
    assert protlm("score", "ACGT", "--variant", "A1C").code == 0  # too short to tell


def test_a_database_of_nucleotides_or_with_invalid_records_is_read_on_request(
    protlm, assays: Path, write_fasta, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dna = write_fasta([("a", "ACGT" * 30)], "dna.fasta")
    bad = write_fasta([("a", SEQUENCE), ("bad", "MK5")], "bad.fasta")
    for command in (("score", SEQUENCE, "--all"), ("proteingym", assays, "--invalid", "error")):
        assert_refused(protlm(*command, "--database", dna), "set --allow-nucleotides")
        assert protlm(*command, "--database", dna, "--allow-nucleotides").code == 0
        assert_refused(protlm(*command, "--database", bad), "record 2 (bad)", "set --invalid to 'skip'")
        outcome = protlm(*command, "--database", bad, "--invalid", "skip")
        assert outcome.code == 0
        assert "1 invalid record of the databases skipped: " in outcome.err


def test_proteins_beyond_the_learned_positions_are_computed_with_a_warning(protlm, model_folder: Path) -> None:
    outcome = protlm("score", SEQUENCE * 30, "-m", model_folder, "--variant", "M1L", "--variant", "K2R")
    assert outcome.code == 0
    assert outcome.err.count("warning: a protein is longer than the 256 positions") == 1


@pytest.fixture
def assays(tmp_path: Path) -> Path:
    folder = tmp_path / "assays"
    folder.mkdir()
    (folder / "wt.fasta").write_text(f">one\n{SEQUENCE}\n>two\nGAVLI\n")
    (folder / "one.csv").write_text("mutant,DMS_score\nM1L,0.5\nK2R,1.5\nT3A,-1\n")
    (folder / "two.csv").write_text("mutant,DMS_score\nG1A,1\nA2G:V3L,3\nV3L,2\n")
    return folder


def test_proteingym_prints_assays_and_averages(protlm, model_folder: Path, assays: Path, tmp_path: Path) -> None:
    output, kept, published = tmp_path / "out.csv", tmp_path / "kept", tmp_path / "published.csv"
    published.write_text("DMS ID,Site-Independent,GEMME\none,0.3,0.4\ntwo,0.5,0.6\n")
    common = ("proteingym", assays, "-m", model_folder, "--published", published, "--columns", "GEMME")
    outcome = protlm(*common, "--scores", kept, "-o", output)
    rows = table(output.read_text())
    assert [row["DMS_id"] for row in rows] == ["one", "two", "average", "average"]
    assert list(rows[0])[3:] == ["metric", "variants", "protlm", "BLOSUM62", "Site-Independent", "GEMME"]
    assert [float(row["GEMME"]) for row in rows] == pytest.approx([0.4, 0.6, 0.5, 0.5])
    assert [float(row["Site-Independent"]) for row in rows] == pytest.approx([0.3, 0.5, 0.4, 0.4])
    lines = outcome.out.splitlines()
    assert lines[0].split() == [
        "assay",
        "selection",
        "metric",
        "variants",
        "protlm",
        "BLOSUM62",
        "Site-Independent",
        "GEMME",
    ]
    assert lines[2].split()[:4] == ["one", "unknown", "Spearman", "3"]
    assert sorted(path.name for path in kept.iterdir()) == ["model.json", "one.csv", "two.csv"]
    assert protlm(*common, "--scores", kept).out == outcome.out


def test_proteingym_reports_errors_in_one_line(protlm, model_folder: Path, assays: Path, tmp_path: Path) -> None:
    run = ("proteingym", assays, "-m", model_folder)
    assert_refused(protlm("proteingym", tmp_path / "no", "-m", model_folder), "no such folder")
    assert_refused(protlm(*run, "-o", assays / "one.csv"), "is an input or another output")
    assert_refused(protlm(*run, "-o", assays / "wt.fasta"), "the output is a table")
    assert (assays / "wt.fasta").read_text().startswith(">one")
    assert_refused(protlm(*run, "--columns", "GEMME"), "--columns requires --published")
    assert_refused(protlm(*run, "--reference", tmp_path / "no.csv"), "no.csv: no such file")
    assert_refused(protlm(*run, "--msa", tmp_path / "no"), "no such folder")
    assert_refused(protlm(*run, "--scores", assays), "contains CSV files")
    (assays / "two.csv").write_text("mutant,DMS_score\nG1A,high\n")
    output = tmp_path / "out.csv"
    refused = protlm(*run, "-o", output, "--invalid", "error")
    assert_refused(refused, "two.csv, row 1: DMS_score is 'high'; expected a finite number")
    assert_refused(protlm(*run, "--invalid", "drop"), "--invalid 'drop': expected one of")
    assert not output.exists()


def test_invalid_and_blank_rows_do_not_end_proteingym(protlm, model_folder: Path, assays: Path, tmp_path: Path) -> None:
    clean, kept = tmp_path / "clean.csv", tmp_path / "kept"
    run = ("proteingym", assays, "-m", model_folder)
    assert protlm(*run, "-o", clean).code == 0
    lines = (assays / "one.csv").read_text().splitlines()
    bad = ["A4?,1", "K4del,1", "NA,2", "K8R,high", "K8R", "M1X1,5", "x,5"]
    (assays / "one.csv").write_text("\n".join([*lines[:2], "Y5F,NA", *bad, "I6L,", *lines[2:], ",,", ""]))
    (assays / "empty.csv").write_text("mutant,DMS_score\nA99G,1\n")
    with (assays / "wt.fasta").open("a") as file:
        file.write(f">empty\n{SEQUENCE}\n")
    for invalid, fate in ((), "left out"), (("--invalid", "nan"), "without a score"):
        output = tmp_path / "out.csv"
        folder = ("--scores", kept.with_suffix(f".{len(invalid)}"))
        outcome = protlm(*run, "-o", output, *invalid, *folder)
        assert outcome.code == 0
        found, expected = table(output.read_text()), table(clean.read_text())
        assert [row for row in found if row["DMS_id"] != "empty"] == expected
        assert [row["protlm"] for row in found if row["DMS_id"] == "empty"] == [""]
        assert f"one.csv: 7 of 12 rows invalid, {fate}" in outcome.err
        assert f"empty.csv: 1 of 1 row invalid, {fate}" in outcome.err
        assert outcome.err.count("one.csv, row") == 5
        assert "1 assay: 2 variants without a measurement" in outcome.out
        assert protlm(*run, "-o", output, *invalid, *folder).out == outcome.out
