"""Learning from labelled proteins: labels, splits, probes on frozen embeddings, honest evaluation, predictions."""
