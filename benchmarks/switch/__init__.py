"""From Transformer to Performer: `python -m benchmarks.switch`."""
