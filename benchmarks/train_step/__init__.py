"""Time and memory of training steps: `python -m benchmarks.train_step`."""
