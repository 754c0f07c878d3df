"""What a protein is to us: alphabet, FASTA, corpus, splits, masking, batches. Knows nothing of the model."""
