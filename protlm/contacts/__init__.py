"""Contact maps from a model or an alignment, and their precision against a structure."""
