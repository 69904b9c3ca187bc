"""What a training set with a few malicious examples does to a classifier."""
