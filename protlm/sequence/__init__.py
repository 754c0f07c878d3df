"""Proteins as text: alphabet, FASTA, compressed streams, counts of what was changed."""
