"""Interpretation of a model: attention maps."""
