"""Gradient-based bilevel optimization from the command line."""

__version__ = "0.1.0"
