"""Embeddings of proteins: in memory, and of whole proteomes into HDF5 files."""
