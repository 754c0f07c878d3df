"""Vectors are read back from every layout as they were stored."""

import numpy as np
import pytest

from protlm.embedding.in_memory import embed
from protlm.embedding.proteome import EmbedOptions, embed_fasta
from protlm.embedding.stored_vectors import read_stored_vectors
from protlm.errors import UserError

PROTEINS = [("a", "MKTAYIAK"), ("b/c", "MKLLI"), ("d", "MKTAYIAK")]


@pytest.mark.parametrize(("name", "layout"), [("a.h5", "uniprot"), ("a.h5", "packed"), ("a.npz", "npz")])
def test_vectors_come_back_under_their_identifiers(tiny_model, write_fasta, tmp_path, name, layout):
    path = tmp_path / name
    embed_fasta(tiny_model, write_fasta(PROTEINS), path, options=EmbedOptions(layout=layout, dtype="float32"))
    stored = read_stored_vectors(path)
    found = dict(zip(stored.ids, stored.vectors, strict=True))
    expected = embed(tiny_model, [sequence for _, sequence in PROTEINS], pool="mean")
    for (identifier, _), vector in zip(PROTEINS, expected, strict=True):
        np.testing.assert_allclose(found[identifier], vector, atol=1e-6)


def test_other_files_are_refused_in_one_line(tiny_model, write_fasta, tmp_path):
    fasta, several, residues = write_fasta(PROTEINS), tmp_path / "several.h5", tmp_path / "residues.h5"
    embed_fasta(tiny_model, fasta, several, residues, EmbedOptions(layers=(1, 2)))
    for path, message in (
        (fasta, "not embeddings in HDF5 or npz"),
        (tmp_path / "none.h5", "no such file"),
        (several, "2 vectors per sequence (layer_1, layer_2)"),
        (residues, "embeddings of residues"),
    ):
        with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
            read_stored_vectors(path)
