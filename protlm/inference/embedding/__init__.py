"""Embeddings of whole proteomes: files that a killed run goes on with."""
