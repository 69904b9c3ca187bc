"""Copies of the rows of a run in other tools."""
