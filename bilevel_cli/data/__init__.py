"""Data sets: files to tensors, and nothing else."""
