"""Hypergradient methods: how to differentiate an inner solve."""
