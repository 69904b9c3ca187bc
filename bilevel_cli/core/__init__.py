"""The mathematics of bilevel optimization."""
