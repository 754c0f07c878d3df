"""Figures for benchmarks and notebooks."""
