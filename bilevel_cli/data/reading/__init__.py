"""Formats of files, and how they are fetched and read."""
