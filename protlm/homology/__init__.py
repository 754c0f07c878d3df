"""Homologs of a protein: search, multiple sequence alignments, sequence weights, profiles."""
