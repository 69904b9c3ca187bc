"""Reads what runs left behind, and compares them fairly; without torch."""
