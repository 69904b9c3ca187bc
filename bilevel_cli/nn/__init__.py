"""Torch modules made functional, and layers that are faster than torch's own."""
