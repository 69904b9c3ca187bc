"""What bilevel-init writes: one of each kind, that works as it stands and is tested here too."""
