"""Data reweighting: which examples to learn from."""
