"""Small problems whose answers are known."""
