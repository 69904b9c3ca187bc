"""Hyperparameter optimization."""

from bilevel_cli.tasks.hyperparameters.classifier import Hyperparameters as Hyperparameters
