"""A `Report` as a page to look into: curves, tables, failures, pictures."""
