"""Probes that watch any run."""
