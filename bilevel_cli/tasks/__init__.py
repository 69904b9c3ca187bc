"""Bilevel problems with their data and their scores."""
