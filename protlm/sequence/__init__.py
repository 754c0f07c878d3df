"""Protein sequences as text: alphabet, FASTA, compressed streams, counts of changes."""
