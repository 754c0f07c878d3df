"""FASTA files to an HDF5 corpus: ingestion, deduplication, splits, writing, reading, statistics."""
