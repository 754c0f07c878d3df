import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from protlm.errors import UserError
from protlm.sequence.fasta import FastaFile
from protlm.sequence.formats import recognised

FASTA = ">a\nMKT\n"
TEXTS = {
    "PIR": ">P1;CRAB_ANAPL\nALPHA CRYSTALLIN B CHAIN\n  MDITIHNPLI*\n",
    "FASTQ": "@read some\nMKTAY\n+\nIIIII\n",
    "GenBank": "LOCUS       NP_000508                142 aa            linear   PRI 01-JAN-2020\n",
    "UniProt": "ID   HBA_HUMAN               Reviewed;         142 AA.\nAC   P69905;\n",
    "EMBL": "ID   X56734; SV 1; linear; mRNA; STD; PLN; 1859 BP.\n",
    "Stockholm": "# STOCKHOLM 1.0\nseq1 MKT\n//\n",
    "Clustal": "CLUSTAL W (1.82) multiple sequence alignment\n\na MKT\n",
    "NEXUS": "#NEXUS\nBEGIN DATA;\n",
    "GCG": "!!AA_SEQUENCE 1.0\n",
    "PHYLIP": " 5    42\nTurkey    AAGCTNGGGC\n",
    "PDB": "HEADER    OXYGEN TRANSPORT                        07-MAR-84   4HHB\n",
    "mmCIF": "data_4HHB\n#\n",
    "GFF": "##gff-version 3\n",
    "XML": '<?xml version="1.0"?>\n<uniprot>',
    "web page": "\n<!DOCTYPE html>\n<html>",
    "JSON": '{"id": "a", "sequence": "MKT"}',
    "Git LFS": "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
    "UTF-16": FASTA.encode("utf-16"),
    "UTF-16 text": FASTA.encode("utf-16-le"),
}


def packed(kind: str) -> bytes:
    """A file of a binary format."""
    buffer = io.BytesIO()
    if kind.startswith("zip"):
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("proteins.fasta", FASTA)
    elif kind.startswith("tar"):
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind.endswith("gz") else "w") as archive:
            archive.addfile(tarfile.TarInfo("proteins.fasta"))
    elif kind == "NumPy archive":
        np.savez(buffer, a=np.zeros(3))
    elif kind == "NumPy array":
        np.save(buffer, np.zeros(3))
    elif kind == "PyTorch":
        torch.save({"a": torch.zeros(3)}, buffer)
    elif kind == "HDF5":
        with h5py.File(buffer, "w") as file:
            file["a"] = 1
    return buffer.getvalue()


BINARY = ("zip archive", "tar archive", "tar archive, gz", "NumPy archive", "NumPy array", "PyTorch", "HDF5")


@pytest.mark.parametrize("kind", [*TEXTS, *BINARY])
def test_other_formats_are_named_and_refused(kind: str, tmp_path: Path) -> None:
    content = TEXTS[kind] if kind in TEXTS else packed(kind)
    (tmp_path / "f.fasta").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=f"f.fasta: expected FASTA, found .*{kind.partition(',')[0]}") as caught:
        list(FastaFile(tmp_path / "f.fasta", allow_nucleotides=True))
    assert "\n" not in str(caught.value)


def test_a_file_of_weights_is_recognised(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "w")
    assert recognised((tmp_path / "w").read_bytes()) == ("a file of weights (safetensors)", "")


def test_compression_does_not_depend_on_the_name(tmp_path: Path) -> None:
    for name in ("a.fasta", "a.fasta.xz", "a.zip"):
        (tmp_path / name).write_bytes(gzip.compress(FASTA.encode()))
        assert [record.sequence for record in FastaFile(tmp_path / name)] == ["MKT"]
    (tmp_path / "plain.fasta.gz").write_text(FASTA)
    assert len(list(FastaFile(tmp_path / "plain.fasta.gz"))) == 1


@pytest.mark.parametrize(
    "start", [b">a\nMKT", b"\n\n>P1 x;\nMKT", b"some words", b"MKT", b"", b">sp|P1|X", b"#A3M#\n>a"]
)
def test_fasta_and_unknown_files_are_not_taken_for_others(start: bytes) -> None:
    kind = recognised(start)
    assert kind is None or kind[0] == "a FASTA file"


def test_an_a3m_alignment_is_read_as_whole_sequences(tmp_path: Path) -> None:
    (tmp_path / "a.a3m").write_text(">query\nMKTAY\n>hit\nM--acAY.\n")
    assert [record.sequence for record in FastaFile(tmp_path / "a.a3m")] == ["MKTAY", "MACAY"]
