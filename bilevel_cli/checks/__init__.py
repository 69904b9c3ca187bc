"""Is it right? Claims held, contracts held."""
