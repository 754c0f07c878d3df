"""From a corpus to batches: sampling, masking, samplers, reproducible randomness."""
