"""From yaml to objects."""
