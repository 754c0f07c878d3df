"""Rows that cannot be scored, names of columns, and variants written in several ways."""

from pathlib import Path

import numpy as np
import pytest

from protlm.errors import ProtlmWarning, UserError
from protlm.inference.engine import Computer
from protlm.performer import Performer
from protlm.variants import score as scoring
from protlm.variants.score import METHODS, score
from protlm.variants.variant_table import SCORE, VariantTable

WILD_TYPE = "MKTAYIAKQR"
BAD = {
    "A4,1": "row 3, variant A4: 'A4' is not a variant; expected such as A42G",
    "Y4del,1": "row 3, variant Y4del: position 4 of the wild type is A, not Y",
    "A4_I6insG,1": "row 3, variant A4_I6insG: 'A4_I6insG' is not between neighbours",
    "NA,1": "row 3: empty; expected a variant",
    "nan,1": "row 3: empty; expected a variant",
    ",1": "row 3: empty; expected a variant",
    "K2R": "row 3: 1 cell; expected 2 as in the header",
    "K2R,1,2,": "row 3: 3 cells; expected 2 as in the header",
    "Y4G,1": "row 3, variant Y4G: position 4 of the wild type is A, not Y",
    "A99G,1": "row 3, variant A99G: position 99 is outside the wild type",
    "A4G:A4C,1": "row 3, variant A4G:A4C: duplicate position 4",
    "A4G,high": "row 3: DMS_score is 'high'; expected a finite number",
    "A4G,inf": "row 3: DMS_score is 'inf'; expected a finite number",
}


@pytest.fixture
def read(tmp_path: Path):
    def read(content: str, wild_type=WILD_TYPE, **options) -> VariantTable:
        path = tmp_path / "variants.csv"
        path.write_text(content)
        return VariantTable(path, wild_type, **options)

    return read


@pytest.mark.parametrize("row", BAD)
def test_a_row_that_cannot_be_scored_is_refused_left_out_or_kept_without_a_score(
    read, row: str, tmp_path: Path
) -> None:
    content = f"mutant,DMS_score\nM1L,0.5\nK2R,NA\n{row}\nT3A,2\n"
    with pytest.raises(UserError, match=f"{BAD[row]}.*; set invalid to 'skip' to leave it out"):
        read(content)
    skipped = read(content, invalid="skip")
    assert skipped.columns()["mutant"] == ["M1L", "K2R", "T3A"]
    assert skipped.describe()[0].endswith("variants.csv: 1 of 4 rows invalid, left out")
    kept = read(content, invalid="nan")
    assert kept.columns()["mutated_sequence"] == ["LKTAYIAKQR", "MRTAYIAKQR", "", "MKAAYIAKQR"]
    assert kept.groups[""][0] == [0, 1, 3]
    values = np.array([0, 1, np.nan, 2])
    kept.write(tmp_path / "out.csv", values)
    written = (tmp_path / "out.csv").read_text().splitlines()
    assert written[0].endswith(SCORE)
    assert [line.rpartition(",")[2] for line in written[1:]] == ["0.000000", "1.000000", "", "2.000000"]
    assert len(kept.describe()) == 2


def test_the_first_invalid_row_is_named_and_the_others_counted(read) -> None:
    content = "mutant\nM1L\nA4?\nK2R\nY4del\nY4G\n"
    with pytest.raises(UserError, match=r"row 2, variant A4\?: .*; 2 more rows are invalid; .*'nan' to write them"):
        read(content)
    lines = read(content, invalid="skip").describe(most=2)
    assert [line.partition(": ")[0] for line in lines[1:]] == ["skipped", "skipped", "..."]
    with pytest.raises(UserError, match="invalid 'drop': expected one of error, skip, nan"):
        read(content, invalid="drop")


def test_lines_of_delimiters_and_blank_measurements_are_accepted(read) -> None:
    table = read("mutant,DMS_score,note\nM1L,NA,\nK2R,,\nT3A,1,x\n,,\n,,,,\n")
    assert table.columns()["mutant"] == ["M1L", "K2R", "T3A"]
    np.testing.assert_array_equal(table.measured(), [np.nan, np.nan, 1])


def test_a_blank_variant_is_taken_from_its_sequence(read) -> None:
    table = read("mutant,mutated_sequence\nNA,LKTAYIAKQR\nK2R,NA\n")
    assert table.columns() == {"mutant": ["M1L", "K2R"], "mutated_sequence": ["LKTAYIAKQR", "MRTAYIAKQR"]}


def test_invalid_rows_of_several_proteins(read) -> None:
    content = "protein,mutant\na,M1L\nc,M1L\nb,M1L\na,K2R\n"
    proteins = {"a": WILD_TYPE, "b": "AAA"}
    with pytest.raises(UserError, match="row 2: protein 'c' is not in the FASTA file; 1 more row is invalid"):
        read(content, proteins)
    table = read(content, proteins, invalid="skip")
    assert {name: rows for name, (rows, _) in table.groups.items()} == {"a": [0, 1]}
    assert table.columns()["mutant"] == ["M1L", "K2R"]
    kept = read(content, proteins, invalid="nan")
    assert kept.groups["a"][0] == [0, 3]
    assert kept.columns()["mutant"] == ["M1L", "M1L", "M1L", "K2R"]


@pytest.mark.parametrize("header", ["Mutant,dms_score,Protein", "MUTANT,DMS_Score,PROTEIN"])
def test_a_header_in_any_case_is_written_once(read, header: str) -> None:
    columns = read(f"{header}\nM1L,1,a\n", {"a": WILD_TYPE}).columns()
    mutant, measured, protein = header.split(",")
    assert list(columns) == [protein, mutant, "mutated_sequence", measured]
    assert columns[mutant] == ["M1L"]


def test_the_column_of_variants_can_be_named(read) -> None:
    content = "id,Variant,mutant,mutated_sequence\n1,p.Met1Leu,x,LKTAYIAKQR\n"
    columns = read(content, column="variant").columns()
    assert list(columns) == ["Variant", "mutated_sequence", "id", "mutant"]
    assert (columns["Variant"], columns["mutant"]) == (["p.Met1Leu"], ["x"])
    with pytest.raises(UserError, match="no column 'hgvs'; found: id, Variant"):
        read(content, column="hgvs")


def test_scores_of_invalid_variants_are_nan_on_request(tiny_model: Performer) -> None:
    names = ["M1L", "A4*", None, float("nan"), "K2R", "Y4G"]
    with pytest.warns(ProtlmWarning, match=r"4 of 6 variants not scored: variant 2, variant A4\*: stop gained"):
        scores = score(tiny_model, WILD_TYPE, names, invalid="nan")
    with pytest.warns(ProtlmWarning, match=r"1 of 2 variants not scored: variant 2, variant A4\*: stop gained"):
        assert np.isnan(score(tiny_model, WILD_TYPE, ["M1L", "A4*"])).tolist() == [False, True]
    assert np.isnan(scores).tolist() == [False, True, True, True, False, True]
    np.testing.assert_array_equal(scores[[0, 4]], score(tiny_model, WILD_TYPE, ["M1L", "K2R"], invalid="nan"))
    with pytest.raises(UserError, match="invalid 'skip': expected 'error' or 'nan'"):
        score(tiny_model, WILD_TYPE, ["M1L"], invalid="skip")


def test_equal_variants_in_other_notations_are_computed_once(
    tiny_model: Performer, causal_model: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["K2R:Y5F", "y5f;k2r", "p.[Lys2Arg;Tyr5Phe]", "A4A:K2R+Y5F", "WT", "A4=", "M1L"]
    for model, method, passes in ((tiny_model, METHODS[2], "masked_own"), (causal_model, METHODS[3], "causal_own")):
        computed, original = [], getattr(scoring, passes)

        def count(computer: Computer, proteins: list, report, computed=computed, original=original):
            computed.extend(bytes(protein) for protein in proteins)
            return original(computer, proteins, report)

        monkeypatch.setattr(scoring, passes, count)
        scores = score(model, WILD_TYPE, names, method)
        assert len(computed) == len(set(computed)) == 3  # the wild type and two variants
        assert len(set(scores[:4])) == 1
        assert scores[4] == scores[5] == 0 != scores[6]
