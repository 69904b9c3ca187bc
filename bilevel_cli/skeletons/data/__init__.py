"""A data set of one's own."""
