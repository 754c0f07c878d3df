"""Annotation: labels of the nearest proteins of a labelled reference, and maps of embeddings."""
