"""Figures of positions of a protein: heat maps and sequence logos."""
