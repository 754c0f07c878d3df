"""Variants of proteins, and how likely a model thinks them."""
