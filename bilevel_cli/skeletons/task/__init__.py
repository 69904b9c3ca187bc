"""A task of one's own."""
