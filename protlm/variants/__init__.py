"""Variant effects: notation, scores, tables of variants, deep mutational scans."""
