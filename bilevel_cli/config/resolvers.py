"""What the files of conf/ ask of each other: interpolations beyond a plain reference."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config import constructors

READ = ("inner_lr", "inner_lr_scale")  # of what a task suggests, by the functions below


def solver_lr(*, _root_: DictConfig) -> Any:
    """`${solver_lr:}`: the step size of the inner solver, for the methods whose steps follow it.

    Of a solver that wraps another one, that of the wrapped one; of one that is learned or falls,
    the first. Where a solver has no setting `lr`, what the task suggests.
    """
    node = OmegaConf.select(_root_, "solver")
    while isinstance(node, DictConfig) and "base" in node:
        node = node.base
    lr = node.get("lr") if isinstance(node, DictConfig) else None
    if isinstance(lr, DictConfig):
        lr = lr.get("initial")
    found = OmegaConf.select(_root_, "suggest.inner_lr") if lr is None else lr
    if found is None:  # in the words of a plain reference, which `resolved` explains
        raise ValueError("Interpolation key 'suggest.inner_lr' not found")
    return found


def scaled(number: float, *, _root_: DictConfig) -> float:
    """`${scaled:1.0}`: a step size that a task suggests, times what the data ask for.

    Data whose inputs are larger need smaller steps: their file says by which factor, as
    `suggest.inner_lr_scale`.
    """
    factor = OmegaConf.select(_root_, "suggest.inner_lr_scale", default=1.0)
    for name, value in (("A scaled step size", number), ("suggest.inner_lr_scale", factor)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} needs a number, got {value!r}")
    return float(f"{number * factor:.12g}")  # 0.1 * 3 is 0.3 to a reader


def on_benchmarks(value: Any, *, _root_: DictConfig) -> Any:
    """`${on_benchmarks:0.5}`: this on a published data set, and null on data of one's own.

    For artificial noise that an experiment brings along: nobody's own labels are made wrong unless
    they ask for it. The class of the data says whether it is a published set (`Source.benchmark`).
    """
    target = OmegaConf.select(_root_, "data._target_")
    published = isinstance(target, str) and constructors.attribute(target, "benchmark") is True
    return value if published else None


def register() -> None:
    """Makes them known to omegaconf; before any composition of conf/."""
    for resolver in (solver_lr, scaled, on_benchmarks):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
