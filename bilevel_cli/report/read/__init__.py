"""Folders of runs, whole or damaged, as `Run`s."""
