"""Running a trained model: batched computation, probabilities, perplexity, evaluation, generation."""
