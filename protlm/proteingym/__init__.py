"""The ProteinGym benchmark: assays, alignments, rank correlations."""
