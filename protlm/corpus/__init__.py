"""FASTA files to an HDF5 corpus, and reading it: ingestion, deduplication, splits, statistics."""
