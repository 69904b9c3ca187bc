"""One file for each experiment that is reproduced, found by globbing."""
