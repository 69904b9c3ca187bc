"""Which runs are compared, at what cost, and what may be said of them."""
