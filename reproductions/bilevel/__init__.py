"""The bilevel benchmark of the field, at its published settings and to its published ends."""
