"""Outer optimizers and schedulers that torch does not have."""

from bilevel_cli.optimizers.mirror_descent import MirrorDescent as MirrorDescent
