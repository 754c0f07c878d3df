"""Inference with a trained model: batches, probabilities, perplexity, evaluation, masked residues, generation."""
