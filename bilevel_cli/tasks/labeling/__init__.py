"""Labels for examples that have none."""
