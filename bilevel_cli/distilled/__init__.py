"""Distilled sets: how they are stored, judged and compared."""
