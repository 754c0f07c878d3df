"""Attention kernels for GPUs, written in Triton. Import them only where a GPU is used: Triton is an optional extra."""
