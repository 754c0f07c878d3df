"""What a model has learned about amino acids: attention between them, similarity of their embeddings."""
