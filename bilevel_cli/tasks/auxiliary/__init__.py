"""Auxiliary learning: how much each of several targets should count, so that one is learned."""
