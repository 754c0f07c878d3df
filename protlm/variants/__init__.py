"""Variant effects: notation, scores, deep mutational scans, tables."""
