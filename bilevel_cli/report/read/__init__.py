"""Folders of runs, whole or damaged, as data."""
