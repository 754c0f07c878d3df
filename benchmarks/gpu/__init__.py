"""Attention and the 36-layer model on a CUDA device: `python -m benchmarks.gpu`."""
