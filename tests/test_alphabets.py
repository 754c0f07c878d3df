"""Models of DNA and bytes, from a corpus to a folder and back."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from protlm import checkpoint, golden, load
from protlm.batching.batches import Objective, ProteinBatches
from protlm.batching.masking import Masking
from protlm.corpus.ingest import Selection
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SplitRule
from protlm.errors import UserError
from protlm.inference.evaluate import evaluate, format_details
from protlm.inference.generate import generate
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabets import ALPHABETS, describe
from protlm.training.datamodule import TremblDataModule, corpus_alphabet
from tests.command import assert_refused
from tests.tiny import FAST, run_training

SIZES = {"layers": 1, "width": 16, "heads": 2, "feed_forward": 32, "attention": "exact"}


def model_of(name: str, **changes) -> Performer:
    alphabet = ALPHABETS[name]
    torch.manual_seed(1)
    sizes = {"start_id": alphabet.cls, "alphabet": describe(alphabet), **SIZES, **changes}
    return Performer(PerformerConfig(alphabet.size, alphabet.pad, **sizes)).eval()


def corpus_of(tmp_path: Path, content: bytes, name: str, **options) -> Path:
    (tmp_path / "source").write_bytes(content)
    out = tmp_path / f"{name}.h5"
    prepare_corpus([tmp_path / "source"], out, SplitRule(0, 0.5), Selection(alphabet=ALPHABETS[name], **options))
    return out


@pytest.mark.parametrize("name", ["dna", "rna", "bytes"])
def test_a_folder_keeps_the_alphabet(tmp_path, name: str) -> None:
    model = model_of(name)
    checkpoint.export(model, tmp_path / "m")
    described = json.loads((tmp_path / "m" / "config.json").read_text())
    assert described["alphabet"] == list(ALPHABETS[name].tokens)
    again = checkpoint.load(tmp_path / "m", any_alphabet=True)
    assert again.config == model.config
    assert checkpoint.fingerprint(again) == checkpoint.fingerprint(model)


def test_models_of_proteins_keep_their_fingerprint() -> None:
    model = model_of("protein")
    settings = model.config.to_dict()
    assert settings["alphabet"] == "protein"
    older = {name: value for name, value in settings.items() if name != "alphabet"}
    assert PerformerConfig.from_dict(older) == model.config


def test_what_is_for_proteins_refuses_another_model(tmp_path) -> None:
    checkpoint.export(model_of("dna"), tmp_path / "m")
    with pytest.raises(UserError, match=r"a model of bases \(dna\); this is for models of proteins"):
        load(tmp_path / "m")
    model = load(tmp_path / "m", any_alphabet=True)
    with pytest.raises(UserError, match=r"the score of a variant requires .*proteins; this one is of bases \(dna\)"):
        model.score("MKTAY", ["K2R"])
    with pytest.raises(UserError, match=r"a contact map requires a model of proteins; this one is of bases \(dna\)"):
        model.contacts("MKTAY")


def test_sequences_of_any_alphabet_are_embedded(tmp_path) -> None:
    checkpoint.export(model_of("dna"), tmp_path / "dna")
    model = load(tmp_path / "dna", any_alphabet=True)
    assert [rows.shape for rows in model.embed_residues(["acgtn", b"G-G"])] == [(5, 16), (2, 16)]
    assert np.array_equal(model.embed("acgu"), model.embed(["ACGT"])[0])
    with pytest.raises(UserError, match="sequence 1: 'L' at position 2 is not a base"):
        model.embed(["ALA"])
    with pytest.raises(UserError, match="sequence 2 is empty"):
        model.embed(["A", ""])
    checkpoint.export(model_of("bytes"), tmp_path / "bytes")
    texts = load(tmp_path / "bytes", any_alphabet=True)
    assert [len(rows) for rows in texts.embed_residues(["\u00e9t\u00e9", bytes([0, 255])])] == [5, 2]


def test_a_folder_of_another_version_of_an_alphabet_is_refused(tmp_path) -> None:
    checkpoint.export(model_of("dna"), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(path.read_text().replace('"A",', '"E",'))
    with pytest.raises(UserError, match="different alphabet from that of dna"):
        checkpoint.load(tmp_path / "m", any_alphabet=True)


def test_files_of_any_alphabet_are_embedded(tmp_path, protlm) -> None:
    model, fasta = tmp_path / "dna", tmp_path / "genome.fa"
    checkpoint.export(model_of("dna"), model)
    fasta.write_text(">chr1\nACGTN\nacgu\n>chr2\nGG-G\n")
    done = protlm("embed", fasta, "--model", model, "-o", tmp_path / "e.h5", "--dtype", "float32")
    assert "2 sequences, 12 bases" in done.err
    assert "1 record: gap removed" in done.err
    with h5py.File(tmp_path / "e.h5") as file:
        found = [file[name][:] for name in ("chr1", "chr2")]
    expected = load(model, any_alphabet=True).embed(["ACGTNACGT", "GGG"])
    assert np.allclose(found, expected, atol=1e-6)
    checkpoint.export(model_of("bytes"), tmp_path / "bytes")
    command = ("embed", fasta, "--model", tmp_path / "bytes", "-o", tmp_path / "t.csv")
    assert f"1 document, {fasta.stat().st_size} bytes" in protlm(*command).err
    assert_refused(protlm(*command[:-1], tmp_path / "u.csv", "--invalid", "skip"), "--invalid is only for proteins")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "genome.fa").write_text("another")
    assert protlm(*command[:1], tmp_path / "b" / "genome.fa", *command[1:-1], tmp_path / "two.csv").code == 0
    ids = [line.partition(",")[0] for line in (tmp_path / "two.csv").read_text().splitlines()[1:]]
    assert ids == ["b/genome.fa", f"{tmp_path.name}/genome.fa"]
    fasta.write_text(">chr1\nACGT\nALA\n")
    command = ("embed", fasta, "--model", model, "-o", tmp_path / "f.h5")
    assert_refused(protlm(*command), "record 1 (chr1), line 3: 'L' at position 6 is not a base")
    fasta.write_text("")
    assert_refused(protlm(*command), "found nothing")


@pytest.mark.parametrize("name", ["dna", "bytes"])
def test_golden_values_are_of_the_alphabet(tmp_path, name: str, protlm) -> None:
    checkpoint.export(model := model_of(name), tmp_path / "m")
    kept = golden.read(tmp_path / "m")
    assert kept is not None
    assert kept.values["middle.logits"].shape == (78, ALPHABETS[name].size)
    assert protlm("check", tmp_path / "m").code == 0
    with torch.no_grad():
        model.embedding.weight *= torch.linspace(0.5, 1.5, 16)
    assert max(one.relative for one in golden.differences(golden.computed(model), kept.values)) > 0.01


def test_evaluation_reports_bases(tmp_path) -> None:
    lines = b"".join(b">%d\nACGTNACGTTACG\n%s\n" % (i, bytes([65]) * i) for i in range(20))
    corpus = Corpus(corpus_of(tmp_path, lines, "dna"))
    results = evaluate(model_of("dna"), corpus, ["test"])
    assert set(results["test"].by_residue) <= set("ACGT")
    assert results["test"].scored == sum(row["asked"] for row in results["test"].by_residue.values())
    shown = format_details(results)
    assert "test by base" in shown
    assert "sequences" in shown
    with pytest.raises(UserError, match="alphabet dna; expected that of the model, rna"):
        evaluate(model_of("rna"), corpus, ["test"])


def test_generated_bytes_are_bytes() -> None:
    model = model_of("bytes", causal=True)
    first, again = (next(generate(model, 1, "The ", max_length=60, min_length=60)) for _ in range(2))
    assert first.letters == again.letters
    assert len(first.letters) == 60
    assert first.letters.startswith(b"The ")
    assert "length=60" in first.fasta()


def test_a_model_learns_which_byte_follows(tmp_path) -> None:
    """In text of one repeated word, from batches of the corpus, as training has them."""
    path = corpus_of(tmp_path, b"transcript " * 400, "bytes", cut=45)
    model = model_of("bytes", causal=True).train()
    samples = ProteinBatches(Corpus(path), "train", Objective(True, Masking()), 47, 470, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for epoch in range(10):
        for key in samples.plan(epoch):
            batch = samples[key]
            loss = model.loss(model(batch.inputs, batch.key_mask), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[0] > 5
    assert losses[-1] < 0.5 * np.log(9)  # letters of the word


def test_training_takes_the_alphabet_of_the_corpus(tmp_path) -> None:
    path = corpus_of(tmp_path, b">a\nACGT\n>b\nGGCC\n>c\nAAAA\n>d\nAATT\n", "dna")
    assert corpus_alphabet(str(path), None) == ALPHABETS["dna"]
    assert corpus_alphabet(None, "bytes") == ALPHABETS["bytes"]
    assert corpus_alphabet([str(tmp_path / "none.h5")], None) == ALPHABETS["protein"]
    data = TremblDataModule(str(path), alphabet="rna")
    with pytest.raises(UserError, match="is of dna; omit data.alphabet"):
        data.prepare_data()


def test_commands_of_a_corpus_of_dna(tmp_path, protlm) -> None:
    path, corpus = tmp_path / "dna.fa", tmp_path / "dna.h5"
    path.write_text(">a\n" + "ACGTTGCA" * 10 + "\n")
    assert_refused(protlm("prepare", path, "-o", corpus), "looks like nucleotides", "--alphabet dna or rna")
    assert_refused(protlm("prepare", path, "-o", corpus, "--alphabet", "text"), "--alphabet 'text'", "protein, dna")
    prepared = protlm("prepare", path, "-o", corpus, "--alphabet", "dna", "--test", 0, "--valid", 0)
    assert prepared.code == 0
    assert "1 sequence, 80 bases (train 1" in prepared.err
    assert "base frequencies" in protlm("info", corpus).out
    checkpoint.export(model_of("dna"), tmp_path / "m")
    evaluated = protlm("evaluate", corpus, "--model", tmp_path / "m", "--split", "train", "--details")
    assert "train by base" in evaluated.out
    assert protlm("export", tmp_path / "again", "--model", tmp_path / "m").code == 0
    refused = protlm("export", tmp_path / "hf", "--model", tmp_path / "m", "--format", "esm")
    assert_refused(refused, "a model of bases (dna); --format esm has the tokens of proteins")


@pytest.mark.slow
def test_a_run_on_both_strands_resumes_bit_for_bit(tmp_path) -> None:
    letters = np.random.default_rng(5).choice(np.frombuffer(b"ACGT", np.uint8), (60, 50))
    content = b"".join(b">%d\n%s\n" % (number, row.tobytes()) for number, row in enumerate(letters))
    options = [f"data.corpus={corpus_of(tmp_path, content, 'dna')}", "data.reverse_complement=true", *FAST]
    options += ["schedule=null", "data.token_budget=200"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_training(*options, "trainer.max_steps=6", f"hydra.run.dir={whole}")
    run_training(*options, "trainer.max_steps=3", f"hydra.run.dir={cut}")
    resumed = [f"ckpt_path={cut / 'checkpoints/last.ckpt'}", f"hydra.run.dir={cut}"]
    run_training(*options, "trainer.max_steps=6", *resumed)
    one, two = (checkpoint.read_lightning(folder / "checkpoints/last.ckpt") for folder in (whole, cut))
    assert one["global_step"] == two["global_step"] == 6
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, two["state_dict"][name]), name
    assert checkpoint.load(cut / "checkpoints/last.ckpt", any_alphabet=True).config.alphabet == "dna"
