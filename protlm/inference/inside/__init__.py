"""What a trained model has learned of the twenty amino acids: its attention, its embeddings and its predictions."""
