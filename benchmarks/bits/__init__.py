"""Models of text and of pictures, in bits per byte: `python -m benchmarks.bits`."""
