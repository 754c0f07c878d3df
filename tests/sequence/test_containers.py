import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas
import pytest
from Bio import SeqIO
from Bio.Seq import MutableSeq, Seq
from Bio.SeqRecord import SeqRecord

from protlm.errors import UserError
from protlm.sequence.containers import protein_of, proteins_of
from protlm.sequence.fasta import FastaFile, Record

FRAME = pandas.DataFrame({"sequence": ["MKT", "AAA"], "id": ["P1", "P2"]})


@pytest.mark.parametrize(
    "given",
    [
        ["MKT", Seq("aaa")],
        (SeqRecord(MutableSeq("m-kt*"), id="a"), Record("b", "", "AAA")),
        {"a": "MKT", 7: SeqRecord(Seq("AAA"), id="b")},
        FRAME,
        FRAME.rename(columns={"sequence": "SEQUENCE"}),
        FRAME["sequence"].astype("category"),
        FRAME.set_index("id")["sequence"],
        FRAME["sequence"].to_numpy(),
        dict(FRAME.set_index("id")["sequence"]).values(),
        FRAME.itertuples(),
    ],
)
def test_containers_hold_the_same_proteins(given) -> None:
    assert proteins_of(given).sequences == ["MKT", "AAA"]


def test_records_read_from_files_are_accepted(write_fasta) -> None:
    path = write_fasta([("a", "MKT"), ("b", "AAA")])
    with closing(SeqIO.index(str(path), "fasta")) as index, SeqIO.parse(path, "fasta") as parsed:
        for given in (FastaFile(path), parsed, index):
            assert proteins_of(given).sequences == ["MKT", "AAA"]


@pytest.mark.parametrize("one", ["mkt", Seq("MKT"), SeqRecord(Seq("MKT")), np.str_("MKT"), FRAME.iloc[0]])
def test_one_protein_has_one_result(one) -> None:
    assert protein_of(one) == "MKT"
    assert proteins_of(one).arranged(["result"]) == "result"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"MKT", "expected one protein or a list of them, got bytes"),
        (None, "got None"),
        (3.5, "got 3.5"),
        ({"MKT", "AAA"}, "got set"),
        (Path("a.fasta"), "got the path a.fasta; read its sequences first"),
        ("proteins.fasta", "'proteins.fasta' is the name of a file"),
        (["x.fa.gz"], "sequence 1: 'x.fa.gz' is the name of a file"),
        (np.array([["M", "K"]]), "an array of 2 dimensions"),
        (np.array("MKT"), "an array of 0 dimensions"),
        ([b"MKT"], "sequence 1: expected a string, Bio.Seq or SeqRecord, got bytes"),
        ([("a", "MKT")], "sequence 1: .* two strings; for identifiers, use a dictionary {id: sequence}"),
        ({"sequence": ["MKT"], "id": ["a"]}, r"sequence 1 \(sequence\): .* got list"),
        ({"a": "MKT", "b": "--*"}, r"sequence 2 \(b\) is empty"),
        (pandas.Series(["MKT", None], index=["a", "b"]), r"sequence 2 \(b\): .* got nan .a missing value."),
        (pandas.Series(["MKT", np.nan]), r"sequence 2 \(1\): .* nan \(a missing value\)"),
        (pandas.DataFrame({"id": ["P1"], "sequence": ["M1"]}), r"sequence 1 \(P1\): '1' at position 2"),
        (pandas.DataFrame({"protein": ["MKT"]}), "columns 'protein': expected one column 'sequence'"),
        (pandas.DataFrame([["MKT", "A"]], columns=["sequence", "sequence"]), "expected one column 'sequence'"),
        (pandas.DataFrame([["MKT", "A"]], columns=["Sequence", "SEQUENCE"]), "expected one column 'sequence'"),
        (FRAME[["sequence"]].to_numpy(), "an array of 2 dimensions"),
        (Seq(None, length=10), "a Bio.Seq without content"),
        ([FRAME["sequence"]], "sequence 1: .* got Series"),
    ],
)
def test_anything_else_is_refused(given, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        proteins_of(given)
    assert "\n" not in str(caught.value)


def test_aligned_sequences_are_not_taken_for_file_names() -> None:
    assert protein_of("MK..ta.fa") == "MKTAFA"


@pytest.mark.slow
def test_neither_biopython_nor_pandas_is_imported() -> None:
    script = "import sys; from protlm.sequence.containers import proteins_of; proteins_of(['MKT']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"Bio", "pandas"} & set(loaded)
