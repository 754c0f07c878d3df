# Every target sets up .venv by itself; a second call does not install again.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check clean

demo: $(READY)
	$(BIN)/protlm prepare data/families.fasta.gz --clusters data/families.clusters.tsv --split-by sequence \
		--ood data/families.ood.txt -o runs/demo/families.h5
	$(BIN)/python -m protlm.train +experiment=demo data.corpus=runs/demo/families.h5 hydra.run.dir=runs/demo
	$(BIN)/protlm evaluate runs/demo/families.h5 --model runs/demo/checkpoints/best.ckpt
	$(BIN)/protlm embed data/families.fasta.gz -o runs/demo/families.embeddings.h5 --model runs/demo/checkpoints/best.ckpt
	$(BIN)/protlm fill '$(HISTONE)' --model runs/demo/checkpoints/best.ckpt

# a histone H2B of the test split, with three residues masked
HISTONE := MPEPA

test: $(READY)
	$(BIN)/pytest -q -n auto

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $(READY)

clean:
	rm -rf $(VENV) runs corpora
