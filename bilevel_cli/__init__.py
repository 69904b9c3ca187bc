"""Gradient-based bilevel optimization from the command line.

What a method, a task, a solver, a data set, a metric or a logger of one's own needs is here, and
these names stay where files move:

    from bilevel_cli import Cost, Estimate, Hypergradient, autodiff

A name is loaded when it is asked for: importing the package imports no torch.

Importing it sets the environment variable CUBLAS_WORKSPACE_CONFIG, unless it is set, for this
process and those that it starts. A script that multiplies matrices on a GPU first, and asks for
`device.deterministic=true` afterwards, imports this package before it does.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.8.1"

# torch reads this at the first product of a process on a GPU, and in a deterministic run refuses
# every product without it: a setting of a run, such as the second one of a sweep, comes too late.
# Where nothing is deterministic it costs "approximately 24MiB" of the GPU's memory, as NVIDIA's
# documentation of cuBLAS says ("Results reproducibility"), for each stream with products on it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# What each name is imported from. The block below says the same to type checkers.
HOMES = {
    # The commands as functions, and what they return and raise.
    "run": "bilevel_cli.api.running",
    "load": "bilevel_cli.api.loading",
    "Run": "bilevel_cli.api.result",
    "UsageError": "bilevel_cli.errors",
    "Failed": "bilevel_cli.errors",
    # The problem, and the data of one outer step.
    "Problem": "bilevel_cli.core.problem",
    "OutputLoss": "bilevel_cli.core.problem",
    "StepData": "bilevel_cli.core.problem",
    "Batch": "bilevel_cli.core.problem",
    "Params": "bilevel_cli.core.trees",
    "Task": "bilevel_cli.core.task",
    "FieldTask": "bilevel_cli.core.task",
    # How the inner problem is solved, and from where.
    "InnerSolver": "bilevel_cli.core.solver",
    "SolverState": "bilevel_cli.core.solver",
    "Oracle": "bilevel_cli.core.oracle",
    "Start": "bilevel_cli.core.start",
    "InnerLoop": "bilevel_cli.core.loop",
    "LinearSolver": "bilevel_cli.linear_solvers.base",
    # What a method estimates, remembers, costs, claims and asks for.
    "Hypergradient": "bilevel_cli.core.method",
    "Estimate": "bilevel_cli.core.method",
    "Carry": "bilevel_cli.core.method",
    "Cost": "bilevel_cli.core.method",
    "CannotServe": "bilevel_cli.core.method",
    "Claim": "bilevel_cli.core.claim",
    "Trial": "bilevel_cli.core.claim",
    "references": "bilevel_cli.core",
    "requirements": "bilevel_cli.core",
    # What is measured and told.
    "Metric": "bilevel_cli.metrics.base",
    "StepView": "bilevel_cli.metrics.base",
    "Logger": "bilevel_cli.loggers.base",
    # Data sets.
    "Examples": "bilevel_cli.data.base",
    "TwoClasses": "bilevel_cli.data.base",
    "Regression": "bilevel_cli.data.base",
    "Labelled": "bilevel_cli.data.base",
    "Classes": "bilevel_cli.data.base",
    "ClassSplits": "bilevel_cli.data.base",
    # Derivatives, arithmetic, and models whose parameters are arguments.
    "autodiff": "bilevel_cli.core",
    "trees": "bilevel_cli.core",
    "functional": "bilevel_cli.nn.functional",
    "Functional": "bilevel_cli.nn.functional",
    "build": "bilevel_cli.nn.building",
    # Own losses, without a configuration.
    "hypergradient": "bilevel_cli.api.hypergradient",
    "BilevelEstimate": "bilevel_cli.api.hypergradient",
    # Whether hypergradients are right, and parts of one's own.
    "check": "bilevel_cli.api.checking",
    "check_method": "bilevel_cli.checks.conformance",
    "check_task": "bilevel_cli.checks.conformance",
    "check_solver": "bilevel_cli.checks.conformance",
}

__all__ = ["__version__", *HOMES]

if TYPE_CHECKING:
    from bilevel_cli.api.checking import check as check
    from bilevel_cli.api.hypergradient import BilevelEstimate as BilevelEstimate
    from bilevel_cli.api.hypergradient import hypergradient as hypergradient
    from bilevel_cli.api.loading import load as load
    from bilevel_cli.api.result import Run as Run
    from bilevel_cli.api.running import run as run
    from bilevel_cli.checks.conformance import check_method as check_method
    from bilevel_cli.checks.conformance import check_solver as check_solver
    from bilevel_cli.checks.conformance import check_task as check_task
    from bilevel_cli.core import autodiff as autodiff
    from bilevel_cli.core import references as references
    from bilevel_cli.core import requirements as requirements
    from bilevel_cli.core import trees as trees
    from bilevel_cli.core.claim import Claim as Claim
    from bilevel_cli.core.claim import Trial as Trial
    from bilevel_cli.core.loop import InnerLoop as InnerLoop
    from bilevel_cli.core.method import CannotServe as CannotServe
    from bilevel_cli.core.method import Carry as Carry
    from bilevel_cli.core.method import Cost as Cost
    from bilevel_cli.core.method import Estimate as Estimate
    from bilevel_cli.core.method import Hypergradient as Hypergradient
    from bilevel_cli.core.oracle import Oracle as Oracle
    from bilevel_cli.core.problem import Batch as Batch
    from bilevel_cli.core.problem import OutputLoss as OutputLoss
    from bilevel_cli.core.problem import Problem as Problem
    from bilevel_cli.core.problem import StepData as StepData
    from bilevel_cli.core.solver import InnerSolver as InnerSolver
    from bilevel_cli.core.solver import SolverState as SolverState
    from bilevel_cli.core.start import Start as Start
    from bilevel_cli.core.task import FieldTask as FieldTask
    from bilevel_cli.core.task import Task as Task
    from bilevel_cli.core.trees import Params as Params
    from bilevel_cli.data.base import Classes as Classes
    from bilevel_cli.data.base import ClassSplits as ClassSplits
    from bilevel_cli.data.base import Examples as Examples
    from bilevel_cli.data.base import Labelled as Labelled
    from bilevel_cli.data.base import Regression as Regression
    from bilevel_cli.data.base import TwoClasses as TwoClasses
    from bilevel_cli.errors import Failed as Failed
    from bilevel_cli.errors import UsageError as UsageError
    from bilevel_cli.linear_solvers.base import LinearSolver as LinearSolver
    from bilevel_cli.loggers.base import Logger as Logger
    from bilevel_cli.metrics.base import Metric as Metric
    from bilevel_cli.metrics.base import StepView as StepView
    from bilevel_cli.nn.building import build as build
    from bilevel_cli.nn.functional import Functional as Functional
    from bilevel_cli.nn.functional import functional as functional


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(HOMES[name])
    if not hasattr(home, name):  # a file, such as autodiff
        importlib.import_module(f"{HOMES[name]}.{name}")
    found = getattr(home, name)
    globals()[name] = found  # whoever asks again finds it here
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
