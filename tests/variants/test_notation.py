import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protlm.errors import UserError
from protlm.inference.proteins import open_proteins
from protlm.sequence.alphabet import STANDARD
from protlm.tables import Table, read_table, write_table
from protlm.variants.edits import Edit, edits_between, mutated, name_of
from protlm.variants.notation import all_singles, examine, parse
from protlm.variants.variant_table import VariantTable

WILD_TYPE = "MKTAYIAKQR"
proteins = st.text(STANDARD, min_size=1, max_size=30)


@given(proteins, st.data(), st.integers(-50, 50))
def test_names_and_sequences_round_trip(sequence: str, data: st.DataObject, offset: int) -> None:
    other = data.draw(st.text(STANDARD, min_size=len(sequence), max_size=len(sequence)))
    name = name_of(sequence, other, offset)
    assert list(parse(sequence, [name], offset).sequences()) == [other]


@given(proteins)
def test_all_single_substitutions_are_nineteen_per_residue_and_distinct(sequence: str) -> None:
    variants = all_singles(sequence)
    mutated = list(variants.sequences())
    assert len(variants) == 19 * len(sequence) == len(set(mutated))
    assert all(sum(a != b for a, b in zip(sequence, other, strict=True)) == 1 for other in mutated)
    again = parse(sequence, variants.names)
    assert (again.position == variants.position).all()
    assert (again.mutant == variants.mutant).all()


def test_nonstandard_letters_have_no_single_substitutions() -> None:
    assert set(all_singles("MXU").position) == {0}


def test_positions_count_from_one() -> None:
    variants = parse(WILD_TYPE, ["M1L", "R10K", "K2R:Y5F"])
    assert list(variants.sequences()) == ["LKTAYIAKQR", "MKTAYIAKQK", "MRTAFIAKQR"]
    assert variants.variant.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "name",
    ["K2R:Y5F", "k2r,y5f", "K2R; Y5F", "K2R/Y5F", "K2R+Y5F", "K2R Y5F", "p.[Lys2Arg;Tyr5Phe]", "p.(K2R):Y5F"],
)
def test_several_mutations_in_every_notation(name: str) -> None:
    assert list(parse(WILD_TYPE, [name]).sequences()) == ["MRTAFIAKQR"]


@pytest.mark.parametrize("name", ["K2=", "p.Lys2=", "p.(Lys2=)", "k2k", "wt", "_wt", "p.="])
def test_synonymous_variants_are_the_wild_type(name: str) -> None:
    assert list(parse(WILD_TYPE, [name, "NP_000509.1:p.Lys2Arg"]).sequences()) == [WILD_TYPE, "MRTAYIAKQR"]


def test_variants_that_change_nothing_are_accepted() -> None:
    assert list(parse(WILD_TYPE, ["A4A", "WT"]).sequences()) == [WILD_TYPE, WILD_TYPE]


@pytest.mark.parametrize(
    ("names", "sequence"),
    [
        (["K2del", "p.Lys2del", "p.(Lys2del)", "k2del", "K2-", "NM_1.2(GENE):c.4_6del (p.Lys2del)"], "MTAYIAKQR"),
        (["K2_A4del", "p.Lys2_Ala4del", "K2_A4delKTA", "MYIAKQR"], "MYIAKQR"),
        (["K2_T3insQS", "p.Lys2_Thr3insGlnSer", "p.K2_T3insQS"], "MKQSTAYIAKQR"),
        (["T3delinsWVW", "p.Thr3delinsTrpValTrp", "MKWVWAYIAKQR"], "MKWVWAYIAKQR"),
        (["T3_A4delinsWV", "p.Thr3_Ala4delinsTrpVal", "T3W:A4V"], "MKWVYIAKQR"),
        (["A4dup", "p.Ala4dup", "A4_Y5insA", "MKTAAYIAKQR"], "MKTAAYIAKQR"),
        (["K2_T3dup", "p.Lys2_Thr3dup", "T3_A4insKT"], "MKTKTAYIAKQR"),
        (["K2R:A4del", "p.[Lys2Arg;Ala4del]"], "MRTYIAKQR"),
        (["R10delinsRWW", "MKTAYIAKQRWW", "MKTAYIAKQRWW*"], "MKTAYIAKQRWW"),
        (["M1delinsGM"], "GMKTAYIAKQR"),
        (["K2_T3delinsKT", "p.="], WILD_TYPE),
    ],
)
def test_insertions_and_deletions_in_every_notation(names: list[str], sequence: str) -> None:
    variants = parse(WILD_TYPE, names)
    assert set(variants.sequences()) == {sequence}
    assert bool(variants.indels) == (len(sequence) != len(WILD_TYPE))
    assert variants.substitutions.all() == (not variants.indels)
    again = parse(WILD_TYPE, [name_of(WILD_TYPE, sequence)])
    assert list(again.sequences()) == [sequence]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["Y5*", "p.Tyr5Ter", "p.Y5Ter", "p.Tyr5*", "Y5stop", "p.Y5STOP", "K2R:Y5*"], "stop gained at residue 5"),
        (["Y5_I6delinsG*"], "stop gained at residue 6"),
        (["Y5X", "p.Y5X", "p.(Tyr5X)", "y5x", "K2R:Y5X"], "stop gained or residue unknown (X) at residue 5"),
        (["K8fs", "p.Lys8fs", "p.Lys8ArgfsTer5", "p.(Lys8Argfs*5)"], "frameshift"),
        (["M1?", "p.Met1?"], "start lost"),
        (["p.Met1ext-5", "p.Ter11GlnextTer17", "*11Qext*17"], "extension beyond the wild type"),
        (["p.?"], "effect on the protein unknown"),
        (["p.0", "p.0?"], "no protein"),
        (["K2_T3ins5", "p.Lys2_Thr3insXaa[23]"], "inserted residues unknown"),
        (["p.Lys2Xaa", "K2_T3insQXS"], "'X' is not one of the twenty amino acids"),
        (["K2U", "p.Lys2Sec"], "'U' is not one of the twenty amino acids"),
        (["M1_R10del"], "no residues left"),
    ],
)
def test_variants_that_cannot_be_scored_have_a_reason(names: list[str], reason: str) -> None:
    variants = parse(WILD_TYPE, ["K2R", *names])
    assert list(variants.reasons) == list(range(1, len(names) + 1))
    assert all(each.startswith(reason) for each in variants.reasons.values())
    assert list(variants.sequences()) == ["MRTAYIAKQR", *[""] * len(names)]
    assert variants.variant.tolist() == [0]


def test_residues_that_are_none_of_the_twenty_are_checked_and_named() -> None:
    assert parse("MKU", ["U3A"]).reasons == {0: "'U' is not one of the twenty amino acids"}
    with pytest.raises(UserError, match="position 3 of the wild type is U, not A"):
        parse("MKU", ["A3G"])


@given(proteins, st.text(STANDARD, min_size=1, max_size=30), st.integers(-50, 50))
def test_any_sequence_has_a_name(sequence: str, other: str, offset: int) -> None:
    assert list(parse(sequence, [name_of(sequence, other, offset)], offset).sequences()) == [other]


@given(proteins, st.data())
def test_one_gap_is_one_edit(sequence: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sequence)))
    end = data.draw(st.integers(start, len(sequence)))
    inserted = data.draw(st.text(STANDARD, max_size=5)) if start == end else ""
    edits = edits_between(sequence, mutated(sequence, [Edit(start, end, inserted)]))
    assert len(edits) == (start != end or bool(inserted))
    assert all(edit.start >= start for edit in edits)  # the equivalent one closest to the C-terminus


@given(st.lists(st.text("AKMRafginsdelupxt0123*?=_-():;. p", max_size=25), max_size=5), st.integers(-3, 3))
def test_any_text_is_read_or_refused_in_one_line(names: list[str], offset: int) -> None:
    variants, problems, _ = examine(WILD_TYPE, names, offset)
    assert problems.keys() <= set(range(len(names)))
    assert not any("\n" in problem for problem in problems.values())
    described = {*variants.variant.tolist(), *variants.indels, *variants.reasons}
    assert not described & problems.keys()
    for number, sequence in enumerate(variants.sequences()):
        assert (not sequence) == (number in variants.reasons)


def test_variants_can_be_taken_apart() -> None:
    variants = parse(WILD_TYPE, ["K2R:Y5F", "A4del", "Y5*", "T3A", "M1L"])
    part = variants.take([1, 2, 4])
    assert list(part.sequences()) == ["MKTYIAKQR", "", "LKTAYIAKQR"]
    assert (part.names, list(part.indels), list(part.reasons)) == (["A4del", "Y5*", "M1L"], [0], [1])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["M1L", "A5G"], "variant 2, variant A5G: position 5 of the wild type is Y, not A"),
        (["A42G"], "position 42 is outside the wild type of 10 residues"),
        (["M0L"], "position 0 is outside"),
        (["M1L:M1K"], "duplicate position 1"),
        (["M1"], "'M1' is not a variant; expected such as A42G"),
        (["M1L,K2"], "'K2' is not a variant"),
        (["MetLys"], "'MetLys' is not a variant"),
        (["p.Mex1Leu"], "'Mex' in Mex1Leu is not an amino acid"),
        (["p.Lys2_Ala4insGly"], "'Lys2_Ala4insGly' is not between neighbours"),
        (["A4_T3del"], "ends before it begins"),
        (["p.Lys2_Thr3ins"], "expected the inserted residues"),
        (["K2_T3insG1"], "expected the inserted residues"),
        (["A2del"], "position 2 of the wild type is K, not A"),
        (["K2_A3del"], "position 3 of the wild type is T, not A"),
        (["Q9_A12del"], "position 12 is outside the wild type"),
        (["K2_A4del:T3W"], "duplicate position 3"),
        (["K2fs:K2del"], "duplicate position 2"),
        (["M1L:"], "empty; expected a variant"),
        ([""], "variant 1: empty"),
        (["M99999999999L"], "is not a variant"),
        (["W5*"], "position 5 of the wild type is Y, not W"),
    ],
)
def test_mismatches_are_refused_with_their_position(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(WILD_TYPE, names)


def test_an_offset_that_fits_all_variants_is_suggested() -> None:
    names = ["M24L", "T26A", "Y28F", "K31R"]
    with pytest.raises(UserError, match=r"3 more variants are invalid; all would match with an offset of 23"):
        parse(WILD_TYPE, names)
    assert next(parse(WILD_TYPE, names, offset=23).sequences()) == "LKTAYIAKQR"
    with pytest.raises(UserError, match=r"position 24, with an offset of 22, of the wild type is K, not M"):
        parse(WILD_TYPE, names, offset=22)


def test_no_offset_is_suggested_unless_it_fits_all_variants() -> None:
    with pytest.raises(UserError, match="numbered on this wild type, or set offset"):
        parse(WILD_TYPE, ["M24L", "T26A", "Y28F", "W31R"])


@pytest.fixture
def table(tmp_path):
    """Writes bytes as a CSV file and reads it as variants of the wild type."""

    def read(content: str | bytes, wild_type=WILD_TYPE) -> VariantTable:
        path = tmp_path / "variants.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return VariantTable(path, wild_type)

    return read


@pytest.mark.parametrize(
    "content",
    [
        "mutant,note\nM1L,a\nK2R:Y5F,b\n",
        "\ufeffmutant,note\r\nM1L,a\r\nK2R:Y5F,b\r\n",
        '"note","mutant"\n"a","M1L"\n"b",K2R:Y5F',
        "note,mutant\n\na,M1L\n\nb,K2R:Y5F\n\n",
        "mutant\tnote\nM1L\ta\nK2R:Y5F\tb\n",
        "mutant;note\nM1L;a\nK2R:Y5F;b\n",
        "# a comment\nmutant,note,\nM1L,a,\n# and another\nK2R:Y5F,b,\n",
        "mutated_sequence,note\nLKTAYIAKQR,a\nMRTAFIAKQR,b\n",
        "mutant,mutated_sequence,note\nM1L,LKTAYIAKQR,a\nK2R:Y5F,MRTAFIAKQR,b\n",
    ],
)
def test_equivalent_csv_files_give_the_same_table(table, content: str) -> None:
    read = table(content)
    assert read.variants.names == ["M1L", "K2R:Y5F"]
    assert read.columns() == {
        "mutant": ["M1L", "K2R:Y5F"],
        "mutated_sequence": ["LKTAYIAKQR", "MRTAFIAKQR"],
        "note": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty; expected a header"),
        ("mutant\n", "no rows after the header"),
        ("variant,score\nM1L,1\n", "no column 'mutant'; found: variant, score"),
        ("variant;score\nM1L;1\n", "no column 'mutant'; found: variant, score"),
        ("mutant,score\nM1L,1\nK2R\n", "row 2: 1 cell; expected 2 as in the header"),
        ("mutant,score\nM1L,1\n,2\n", "row 2: empty"),
        ("mutant,score\nM1L,1\nA5G,2\n", "row 2, variant A5G: position 5 of the wild type is Y, not A"),
        ("mutant,mutant\nM1L,K2R\n", "duplicate column 'mutant'"),
        ("mutant,protlm_score\nM1L,1\n", "already has a column 'protlm_score'"),
        ("mutant,mutated_sequence\nM1L,MKTAYIAKQR\n", "row 1: mutated_sequence is not the wild type with M1L"),
        ("mutated_sequence\nMKTAYIAKQ1\n", "row 1, variant R101: 'R101' is not a variant"),
        ("mutant,mutated_sequence\nK2del,MKTAYIAKQ\n", "row 1: mutated_sequence is not the wild type with K2del"),
        ('mutant\n"M1L\n', "line 2: not CSV"),
        ("mutant\nM1L\0\n", "NUL"),
        (b"mutant\n\xff\xfeM1L\n", r"not UTF-8 text \(byte 8\)"),
        (b"\x1f\x8b\x08\x00damaged", "damaged or cut short"),
        ("mutant\nM1L\n".encode("utf-16"), "expected a CSV file, found UTF-16 text; save it as UTF-8"),
        (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml\xff", "found an Excel workbook; save it as CSV"),
        (b"\x89HDF\r\n\x1a\n\xff", "found an HDF5 file"),
        (bytes(257) + b"ustar", "found a tar archive; unpack it first"),
        (">a\nMKT\n", "expected a CSV file, found a FASTA file"),
        ("data_id,note\n1,2\n", "no column 'mutant'; found: data_id, note; set column to one of them"),
    ],
)
def test_an_unusable_table_is_refused(table, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        table(content)


def test_rows_name_their_protein(table) -> None:
    read = table("protein,mutant\na,M1L\nb,A1G\na,K2R\n", {"a": WILD_TYPE, "b": "AAA"})
    assert {name: rows for name, (rows, _) in read.groups.items()} == {"a": [0, 2], "b": [1]}
    assert read.columns()["mutated_sequence"] == ["LKTAYIAKQR", "GAA", "MRTAYIAKQR"]
    with pytest.raises(UserError, match="row 3, variant K3R: position 3 of the wild type is T"):
        table("protein,mutant\na,M1L\nb,A1G\na,K3R\n", {"a": WILD_TYPE, "b": "AAA"})
    with pytest.raises(UserError, match="row 1: protein 'c' is not in the FASTA file"):
        table("protein,mutant\nc,M1L\n", {"a": WILD_TYPE})


@pytest.mark.parametrize("cell", ["nan", "", "inf", "high"])
def test_numbers_must_be_finite(cell: str) -> None:
    with pytest.raises(UserError, match=r"t\.csv, row 2: x is .*; expected a finite number"):
        Table("t.csv", ["x"], [["1"], [cell]]).numbers("x")


def test_missing_numbers_are_accepted_on_request() -> None:
    np.testing.assert_array_equal(Table("t.csv", ["x"], [["1"], [""]]).numbers("x", missing=True), [1, np.nan])


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), min_size=2, max_size=2)))
def test_written_tables_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("table") / "t.csv"
    write_table(path, ["a", "b"], rows)
    assert read_table(path).rows == rows


def test_a_protein_is_a_file_or_a_sequence(write_fasta) -> None:
    assert [record.sequence for record in open_proteins("mktay")] == ["MKTAY"]
    assert [record.sequence for record in open_proteins("MKTAY" * 1000)] == ["MKTAY" * 1000]
    assert [record.sequence for record in open_proteins(str(write_fasta([("a", "MKT")])))] == ["MKT"]
    for source in ("no.fasta", "MK-T", "", "MKT" * 1000 + "1"):
        with pytest.raises(UserError, match="neither an existing file nor a sequence"):
            open_proteins(source)
