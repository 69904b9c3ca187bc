"""A `Report` as text for terminals and papers, and as curves."""
