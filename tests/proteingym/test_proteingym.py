import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from protlm.correlation import auroc, spearman
from protlm.errors import UserError
from protlm.homology.alignment import Alignment, read_alignment
from protlm.inference.engine import Computer
from protlm.performer import Performer
from protlm.proteingym import benchmark as proteingym
from protlm.proteingym.assays import Published, find_assays
from protlm.proteingym.benchmark import benchmark
from protlm.proteingym.correlation import Result, averages, format_correlations, to_rows
from protlm.proteingym.measurements import measurements
from protlm.proteingym.site_independent import site_independent, site_log_frequencies
from protlm.proteingym.sources import search_together, settings, sources_of
from protlm.tables import Table
from protlm.variants.blosum import blosum62
from protlm.variants.knowledge import Knowledge
from protlm.variants.notation import all_singles, parse
from protlm.variants.score import score
from protlm.variants.sources import Sources

REFERENCE = "DMS_id,DMS_filename,UniProt_ID,target_seq,coarse_selection_type,MSA_filename\n"
A, B = "MKTAYIAKQR", "GAVLIMCFYW"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three assays of two proteins, and a reference table of four."""
    folder = tmp_path / "assays"
    folder.mkdir()
    (folder / "DMS_substitutions.csv").write_text(
        f"{REFERENCE}A_one,A_one.csv,PA,{A},Activity,A.a2m\nA_two,A_two.csv,PA,{A},Activity,\n"
        f"B_one,B_file.csv,PB,{B},Binding,\nC_one,C_one.csv,PC,{B},Binding,\n"
    )
    (folder / "A_one.csv").write_text("mutant,DMS_score\nM1L,0.5\nK2R,1.5\nT3A,-1\nA4G,0\n")
    (folder / "A_two.csv").write_text("mutant,DMS_score\nM1L,1\nK2R:Y5F,3\nT3A,2\n")
    (folder / "B_file.csv").write_text("mutant,DMS_score\nG1A,1\nA2G,3\nV3L,2\n")
    return folder


def test_the_average_is_over_proteins_within_a_type_then_over_types() -> None:
    values = [0.1, 0.3, 0.6, 0.5, 0.9, math.nan]
    uniprot = ["P1", "P1", "P2", "P1", "P3", "P4"]
    selection = ["Activity", "Activity", "Activity", "Binding", "Stability", "Stability"]
    kinds, mean = averages(values, uniprot, selection)
    assert kinds == pytest.approx({"Activity": (0.2 + 0.6) / 2, "Binding": 0.5, "Stability": 0.9})
    assert mean == pytest.approx((0.4 + 0.5 + 0.9) / 3)
    assert mean != pytest.approx(np.nanmean(values))
    assert math.isnan(averages([math.nan], ["P"], ["Activity"])[1])


def test_spearman_is_the_correlation_of_ranks() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 9, size=(2, 50)).astype(float)
    assert spearman(x, y) == pytest.approx(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert math.isnan(spearman(x, np.ones(50)))
    assert spearman(np.array([1, 2, np.nan, 3]), np.array([1, 2, 0, np.nan])) == pytest.approx(1)


def test_blosum62_equals_the_published_matrix() -> None:
    names = ["M1L", "K2R", "T3A", "A4W", "Y5F", "K2R:Y5F", "WT", "A4A"]
    assert blosum62(parse(A, names)).tolist() == [2, 2, 0, -3, 3, 5, 0, 0]


@pytest.fixture
def alignment(tmp_path: Path):
    def write(text: str) -> Path:
        (tmp_path / "A.a2m").write_text(text)
        return tmp_path / "A.a2m"

    return write


def test_site_independent_scores_are_ratios_of_frequencies(alignment) -> None:
    path = alignment(">focus\nTAYI\n>two\nTGWL\n>gaps\n-W--\n")
    variants = parse(A, ["A4G", "T3A", "T3A:A4G", "M1L", "A4C", "WT"])
    site = math.log(1.5 / 1.5), math.log(0.5 / 2.5), math.log(0.5 / 1.5)
    expected = [site[0], site[1], site[0] + site[1], np.nan, site[2], 0]
    np.testing.assert_allclose(site_independent(variants, path), expected)
    frequencies = np.exp(site_log_frequencies(read_alignment(path).codes))
    np.testing.assert_allclose(frequencies.sum(1), 1)


@pytest.mark.parametrize(
    ("text", "message"), [("", "empty; expected an alignment"), (">a\nWWW\n", "is not part of the wild type")]
)
def test_alignments_of_other_proteins_are_refused(alignment, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        site_independent(all_singles(A), alignment(text))


def test_assays_are_those_of_the_reference_table(folder: Path) -> None:
    (folder / "stray.csv").write_text("x\n")
    assays = find_assays(folder)
    assert [(a.id, a.path.name, a.uniprot, a.selection, a.sequence) for a in assays.found] == [
        ("A_one", "A_one.csv", "PA", "Activity", A),
        ("A_two", "A_two.csv", "PA", "Activity", A),
        ("B_one", "B_file.csv", "PB", "Binding", B),
    ]
    assert (assays.missing, assays.foreign) == (1, ["stray.csv"])


def test_wild_types_can_be_in_a_fasta_file(folder: Path) -> None:
    (folder / "DMS_substitutions.csv").unlink()
    (folder / "wt.fasta").write_text(f">A_one\n{A}\n>B_file text\n{B}\n")
    assays = find_assays(folder)
    assert [(a.id, a.uniprot, a.selection) for a in assays.found] == [
        ("A_one", "A_one", "unknown"),
        ("B_file", "B_file", "unknown"),
    ]
    assert assays.foreign == ["A_two.csv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "DMS_substitutions.csv").unlink(), "no wild types; expected DMS_substitutions.csv"),
        (lambda folder: [path.unlink() for path in folder.glob("[AB]*")], "no CSV file of an assay"),
        (lambda folder: (folder / "DMS_substitutions.csv").write_text("DMS_id\nx\n"), "no column 'DMS_filename'"),
        (
            lambda folder: (folder / "DMS_substitutions.csv").write_text(f"{REFERENCE}x,x.csv,P,,Binding,\n"),
            "row 1: empty cell",
        ),
        (
            lambda folder: (folder / "DMS_substitutions.csv").write_text(f"{REFERENCE}../x,x.csv,P,MK,Binding,\n"),
            "row 1: file name with a folder",
        ),
        (lambda folder: (folder / "wt.fasta").write_text(">a\nMK\n>a\nMK\n"), "duplicate identifier 'a'"),
    ],
)
def test_an_unusable_folder_is_refused(folder: Path, change, message: str) -> None:
    change(folder)
    with pytest.raises(UserError, match=message):
        find_assays(folder)


def results(model: Performer, folder: Path, method: str | None = None, **options) -> list[Result]:
    knowledge = Knowledge(model=Computer(model), method=method)
    about = settings(knowledge, "auto") if "scores" in options else None
    return list(benchmark(find_assays(folder), sources_of(knowledge), about=about, **options))


def test_correlations_equal_those_of_the_parts(tiny_model: Performer, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "A.a2m").write_text(">focus\nMKTAYI\n>two\nLKAGYI\n")
    published = tmp_path / "published.csv"
    published.write_text('DMS ID,Site-Independent,"Big (k=1, h=2)",ESM2 (8M)\nA_two,0.25,0.5,0.75\nA_one,0.2,0.4,\n')
    first, second, third = results(
        tiny_model, folder, published=Published(published, ["Big (k=1, h=2)"]), alignments=tmp_path
    )
    names = ["M1L", "K2R", "T3A", "A4G"]
    measured = np.array([0.5, 1.5, -1, 0])
    assert first.variants == 4
    assert first.correlations == {
        "protlm": spearman(score(tiny_model, A, names).round(6), measured),
        "BLOSUM62": spearman(blosum62(parse(A, names)), measured),
        "Site-Independent": spearman(site_independent(parse(A, names), tmp_path / "A.a2m"), measured),
        "Big (k=1, h=2)": 0.4,
    }
    assert (second.correlations["Site-Independent"], second.correlations["Big (k=1, h=2)"]) == (0.25, 0.5)
    assert math.isnan(third.correlations["Site-Independent"])
    assert "neither an alignment nor a published result" in third.notes[0]
    assert Published(published).columns == ["ESM2 (8M)"]
    with pytest.raises(UserError, match="no column 'GEMME'"):
        Published(published, ["GEMME"])


def test_existing_scores_are_reused(
    tiny_model: Performer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = results(tiny_model, folder)
    kept = tmp_path / "scores"
    knowledge = Knowledge(model=Computer(tiny_model))
    about = settings(knowledge, "auto")
    stopped = benchmark(find_assays(folder), sources_of(knowledge), scores=kept, about=about)
    next(stopped)
    stopped.close()
    assert [path.name for path in kept.glob("*.csv")] == ["A_one.csv"]
    calls = []
    original = proteingym.assess
    monkeypatch.setattr(proteingym, "assess", lambda *a: calls.append(a[0].names) or original(*a))
    resumed = results(tiny_model, folder, scores=kept)
    assert len(calls) == 2
    assert to_rows(resumed) == to_rows(whole)
    assert results(tiny_model, folder, scores=kept)
    assert len(calls) == 2
    (folder / "A_one.csv").write_text("mutant,DMS_score\nM1L,0.5\nK2R,1.5\nT3A,-1\nA4G,0.1\n")
    results(tiny_model, folder, scores=kept)
    assert calls[2:] == [["M1L", "K2R", "T3A", "A4G"]]


def test_scores_of_a_different_model_are_refused(tiny_model: Performer, folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "scores"
    results(tiny_model, folder, scores=kept)
    with pytest.raises(UserError, match="method default, now wt-marginals"):
        results(tiny_model, folder, scores=kept, method="wt-marginals")
    with torch.no_grad():
        tiny_model.head.bias[7] += 0.1
    with pytest.raises(UserError, match="scores of other settings"):
        results(tiny_model, folder, scores=kept)
    with pytest.raises(UserError, match=r"contains CSV files but no model\.json"):
        results(tiny_model, folder, scores=folder)
    with pytest.raises(UserError, match="is a file"):
        results(tiny_model, folder, scores=folder / "A_one.csv")
    (kept / "model.json").write_text("{}")
    with pytest.raises(UserError, match="damaged; choose another folder"):
        results(tiny_model, folder, scores=kept)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mutant,DMS_score\nM1L,high\n", r"A_one\.csv, row 1: DMS_score is 'high'; expected a finite number"),
        ("mutant\nM1L\n", "no column 'DMS_score'"),
        ("mutant,DMS_score\nK1L,1\n", "row 1, variant K1L: position 1 of the wild type is M, not K"),
    ],
)
def test_an_unusable_assay_is_refused(tiny_model: Performer, folder: Path, content: str, message: str) -> None:
    (folder / "A_one.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        results(tiny_model, folder)


def test_the_table_has_assays_and_averages(tiny_model: Performer, folder: Path) -> None:
    found = results(tiny_model, folder)
    columns, rows = to_rows(found)
    assert columns[:5] == ["DMS_id", "UniProt_ID", "coarse_selection_type", "metric", "variants"]
    assert [row[0] for row in rows] == ["A_one", "A_two", "B_one", "average", "average", "average"]
    assert [[row[2], row[4]] for row in rows[3:]] == [["Activity", "7"], ["Binding", "3"], ["all", "10"]]
    mine = [float(row[columns.index("protlm")]) for row in rows]
    assert mine[3] == pytest.approx((mine[0] + mine[1]) / 2, abs=1e-5)
    assert mine[5] == pytest.approx((mine[3] + mine[4]) / 2, abs=1e-5)
    text = format_correlations(found)
    assert "3 assays: no Site-Independent" in text
    assert len({len(line) for line in text.splitlines()[:9]}) == 1


def test_the_area_under_the_curve_is_that_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 9, 40).astype(float), generator.integers(0, 2, 40).astype(float)
    pairs = [(a, b) for a in scores[positive == 1] for b in scores[positive == 0]]
    assert auroc(scores, positive) == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))
    scores[0], positive[1] = np.nan, np.nan
    assert auroc(scores, positive) == auroc(scores[2:], positive[2:])
    assert math.isnan(auroc(scores, np.ones(40)))


def test_annotations_are_benign_or_pathogenic() -> None:
    uncertain = [["Uncertain significance"], ["VUS"], ["Conflicting classifications of pathogenicity"]]
    rows = [["Benign"], ["Pathogenic"], ["likely benign"], [""], ["0.0"], ["Pathogenic/Likely pathogenic"], *uncertain]
    found = measurements(Table("t.csv", ["DMS_bin_score"], rows))
    assert found.metric == "AUROC"
    np.testing.assert_array_equal(found.values, [1, 0, 1, np.nan, 0, 0, np.nan, np.nan, np.nan])
    with pytest.raises(UserError, match=r"t\.csv, row 1: annotation is 'maybe'; expected Benign, Pathogenic"):
        measurements(Table("t.csv", ["annotation"], [["maybe"]]))
    with pytest.raises(UserError, match="no column 'DMS_score'; found: x"):
        measurements(Table("t.csv", ["x"], [["1"]]))


def test_indels_and_clinical_sets_have_averages_of_their_own(folder: Path) -> None:
    (folder / "DMS_indels.csv").write_text(f"{REFERENCE}A_indels,A_indels.csv,PA,{A},Stability,\n")
    (folder / "A_indels.csv").write_text(
        f"mutated_sequence,DMS_score,DMS_score_bin\n{A[:3]}{A[4:]},1,1\n{A[:5]}G{A[5:]},0,0\n{A},2,1\n"
    )
    (folder / "clinical_substitutions.csv").write_text(
        f"DMS_id,target_seq,DMS_filename,MSA_filename\nNP_1,{B},NP_1.csv,\n"
    )
    (folder / "NP_1.csv").write_text(
        f"protein,protein_sequence,mutant,mutated_sequence,DMS_bin_score\n1,{B},V3I,,Benign\n1,{B},G1W,,Pathogenic\n"
    )
    alignment = Alignment(A, ["query", "a", "b"], [A, f"{A[:3]}-{A[4:]}", f"{A[:3]}-{A[4:]}"])
    found = list(benchmark(find_assays(folder), lambda assay: Sources(alignment if assay.sequence == A else None)))
    by_name = {result.assay.id: result for result in found}
    assert by_name["A_indels"].correlations["protlm"] == 1  # the deletion is that of the homologs
    assert by_name["NP_1"].metric == "AUROC"
    assert by_name["NP_1"].correlations["BLOSUM62"] == by_name["NP_1"].correlations["protlm"] == 1
    assert "2 assays: scores by BLOSUM62 alone" in format_correlations(found)  # B_one and NP_1
    averages_of = [row[2:4] for row in to_rows(found)[1] if row[0] == "average"]
    spearman_kinds = [["Activity", "Spearman"], ["Binding", "Spearman"], ["Stability", "Spearman"], ["all", "Spearman"]]
    assert averages_of == [*spearman_kinds, ["Clinical", "AUROC"], ["all", "AUROC"]]
    for path in folder.glob("*.csv"):
        if path.name != "NP_1.csv":
            path.unlink()
    assert [(a.id, a.sequence) for a in find_assays(folder).found] == [("NP_1", B)]  # from its own column


def test_searches_of_all_assays_share_the_databases(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "db.fasta").write_text(f">hit\n{B}\n")
    knowledge, assays = Knowledge(databases=[tmp_path / "db.fasta"], threads=1), find_assays(folder).found
    search_together(knowledge, assays)
    assert len(list((tmp_path / "cache").rglob("*.a3m"))) == 2  # one for each protein
    monkeypatch.setattr("protlm.homology.search._searched", lambda queries, *_: iter(() if not queries else 1 / 0))
    assert [len(sources_of(knowledge)(assay).alignment) for assay in assays] == [1, 1, 2]


def test_alignments_of_the_folder_come_before_a_search(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "A.a2m").write_text(f">focus\n{A}\n>two\n{A[:-1]}K\n")
    (tmp_path / "db.fasta").write_text(f">hit\n{B}\n")
    sources = sources_of(Knowledge(databases=[tmp_path / "db.fasta"], cache=False), tmp_path)
    first, second, third = map(sources, find_assays(folder).found)
    assert [len(each.alignment) for each in (first, second, third)] == [2, 1, 2]
    assert third.alignment.query == B
    (tmp_path / "B_one.a3m").write_text(f">focus\n{B}\n>two\n{B}\n>three\n{B}\n")
    assert len(sources_of(Knowledge(), tmp_path)(find_assays(folder).found[2]).alignment) == 3


def test_an_assay_that_cannot_be_scored_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="A_one: scorer profile: requires homologs") as refused:
        list(benchmark(find_assays(folder), sources_of(Knowledge()), "profile"))
    assert refused.value.renamed("--{}".format).startswith("A_one: --scorer profile")
