"""Outer optimizers and schedulers that torch does not have."""
