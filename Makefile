# Every target creates .venv if necessary; later calls do not install again.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRITON := $(VENV)/.triton

# Bytecode is kept even where the shell says otherwise: tests start hundreds of processes that import PyTorch and Lightning,
# and reading their source takes twice as long.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-slow test-kernels test-all check docs notebooks bench-gpu bench-attention bench-error bench-ingest bench-train bench-stability bench-embed bench-generate bench-quality bench-card clean

DEMO := runs/demo
DEMO_MODEL := $(DEMO)/checkpoints/best.ckpt

demo: $(READY)
	mkdir -p $(DEMO)
	$(BIN)/protlm prepare data/families.fasta.gz --clusters data/families.clusters.tsv --split-by sequence \
		--ood data/families.ood.txt -o $(DEMO)/families.h5
	$(BIN)/python -m protlm.train +experiment=demo data.corpus=$(DEMO)/families.h5 hydra.run.dir=$(DEMO)
	$(BIN)/protlm evaluate $(DEMO)/families.h5 --model $(DEMO_MODEL) --details --json $(DEMO)/evaluation.json
	$(BIN)/protlm embed data/families.fasta.gz -o $(DEMO)/embeddings.h5 --overwrite --model $(DEMO_MODEL)
	$(BIN)/protlm fill '$(MASKED)' --top 3 --model $(DEMO_MODEL)

# a ribosomal protein of the test split (A1V0P2) with R20, Q40 and F60 masked
MASKED := MAHKKAGGSSRNGRDSESK<mask>LGVKVYGGQAINAGGIIVR<mask>RGTRMHAGENVGMGKDHTL<mask>ALVDGHVKFTTKGAAKKHTVVVVPAAA

# tests to run while working; test-slow runs those that start processes, train for longer or build the docs
test: $(READY)
	$(BIN)/pytest -q -n auto --dist worksteal -m 'not slow'

test-slow: $(READY)
	$(BIN)/pytest -q -n auto --dist worksteal -m slow

# the kernels for GPUs, on the CPU: in Triton's interpreter, and compiled ahead of time
test-kernels: $(TRITON)
	$(BIN)/pytest -q -n auto --dist worksteal tests/performer/kernels

# all of these in one run
test-all: $(TRITON)
	$(BIN)/pytest -q -n auto --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# the documentation site; a warning or a dead link fails
docs: $(READY)
	$(BIN)/zensical build --strict --clean

# executes the notebooks, with the model of the demo, and stores their outputs in them
notebooks: $(READY) $(DEMO_MODEL)
	rm -rf runs/notebook
	$(BIN)/python notebooks/execute.py

# on a CUDA device, less than 10 minutes
bench-gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu

# 35 minutes, with the machine to itself
bench-attention: $(READY)
	$(BIN)/python -m benchmarks.attention

bench-error: $(READY)
	$(BIN)/python -m benchmarks.error

# 6 minutes; FASTA is Swiss-Prot or something as large, CLUSTERS a table of its clusters
bench-ingest: $(READY)
	$(BIN)/python -m benchmarks.ingest $(FASTA) $(if $(CLUSTERS),--clusters $(CLUSTERS))

# about two hours with the machine to itself; CORPUS is made by protlm prepare, such as data/swissprot.h5. The last, speed and
# memory of all kinds of attention against length, takes most of it; if interrupted, run it again to resume
bench-train: $(READY)
	$(BIN)/python -m benchmarks.train_step throughput $(CORPUS)
	$(BIN)/python -m benchmarks.train_step length
	$(BIN)/python -m benchmarks.train_step memory
	$(BIN)/python -m benchmarks.train_step figure

# two to three hours; if interrupted, run it again to resume
bench-stability: $(READY)
	$(BIN)/python -m benchmarks.stability $(CORPUS)

# 40 minutes; FASTA is Swiss-Prot, LONG a file of its proteins of 8,000 residues and more
bench-embed: $(READY)
	$(BIN)/python -m benchmarks.embed compare $(FASTA) $(LONG)
	$(BIN)/python -m benchmarks.embed many
	$(BIN)/python -m benchmarks.embed invariance $(FASTA)

bench-generate: $(READY)
	$(BIN)/python -m benchmarks.generate

# 13 minutes for 0.93 million parameters; MODEL is a folder or checkpoint, CORPUS has held-out clusters, DMS is a folder of deep
# mutational scans for `protlm proteingym`
bench-card: $(READY)
	$(BIN)/python -m benchmarks.card $(MODEL) $(CORPUS) $(DMS)
	$(BIN)/python -m benchmarks.inside $(MODEL) $(CORPUS)

# many hours; if interrupted, run it again to resume. FASTA is Swiss-Prot, CLUSTERS a table of its clusters; without them,
# only the families of the sample are used. The switch from Transformer to Performer starts from the first exact
# Transformer of the comparison.
bench-quality: $(READY)
	$(BIN)/python -m benchmarks.quality train $(if $(FASTA),$(FASTA) --clusters $(CLUSTERS),--corpora families)
	$(BIN)/python -m benchmarks.quality time
	$(BIN)/python -m benchmarks.quality report
	$(if $(FASTA),$(BIN)/python -m benchmarks.quality concat)
	$(BIN)/python -m benchmarks.switch train runs/quality/families/bidirectional/exact/1
	$(BIN)/python -m benchmarks.switch report

$(DEMO_MODEL):
	$(MAKE) demo

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]' -c constraints.txt
	touch $(READY)

$(TRITON): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[gpu]' -c constraints.txt
	touch $(TRITON)

clean:
	rm -rf $(VENV) runs corpora site
