"""From `Run`s to a `Report`: what is compared, at what cost, and what may be said of it."""
