"""Kinds of attention compared at equal steps: `python -m benchmarks.quality`."""
