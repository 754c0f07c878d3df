"""What a model has learned about the residues: similarity of embeddings, attention between residues."""
