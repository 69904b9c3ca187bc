"""What only the objects themselves can say: claims, costs, refusals, names of scores."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from bilevel_cli.checks import trials
from bilevel_cli.config import options
from bilevel_cli.config.objects import Parts, make, parts
from bilevel_cli.config.options import CONF
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import CannotServe, Hypergradient
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.start import Start
from sitemaker import yamls

SMALL = Path(__file__).parents[2] / "tests" / "small"
STEPS = (10, 20, 50, 100)
INNER, OUTER = 20, 5  # sizes of z and lambda of task=quadratic


class Method(NamedTuple):
    """A method as configured, and the start and the solver that it insists on."""

    made: Hypergradient[Any]
    start: Start | None
    solver: InnerSolver[Any] | None
    claim: Claim


class Posed(NamedTuple):
    """A task at its defaults, in a size that takes milliseconds.

    Attributes:
        choices: The option of each group, at the size that it has.
        scores: The columns of eval.csv.
        refusals: For each method that refuses the task, why.
    """

    choices: dict[str, Any]
    scores: list[str]
    refusals: dict[str, str]


@cache
def methods() -> dict[str, Method]:
    """All of conf/method, built on the quadratic."""
    found = {}
    for name in options.names("method"):
        config, _ = _composed("task=quadratic", f"method={name}")
        made = make(config, "method")
        own = yamls.brings("method", name)
        start, solver = (make(config, key) if key in own else None for key in ("start", "solver"))
        found[name] = Method(made, start, solver, made.claim())
    return found


@cache
def tasks() -> dict[str, Posed]:
    """All of conf/task, and every method asked whether it serves them."""
    with _exactly():
        return {name: _posed(name) for name in options.names("task")}


def cost(name: str) -> list[tuple[int, str, str]]:
    """Inner steps, gradients and products of an estimate; none where only an estimate can tell."""
    made = methods()[name].made
    outer, inner = {"lam": torch.zeros(OUTER)}, {"z": torch.zeros(INNER)}
    try:
        found = [(steps, made.cost(steps, outer, inner, {})) for steps in STEPS]
    except KeyError:
        return []
    return [(steps, f"{float(c.inner_grads):g}", f"{float(c.hvps):g}") for steps, c in found]


def formula(counts: list[float]) -> str:
    """The straight line in K through what `STEPS` cost, in words; nothing where it is none."""
    slope = (counts[1] - counts[0]) / (STEPS[1] - STEPS[0])
    rest = counts[0] - slope * STEPS[0]
    line = [slope * steps + rest for steps in STEPS]
    if any(abs(a - b) > 1e-9 * (1 + abs(a)) for a, b in zip(counts, line, strict=True)):
        return ""
    times = {0.0: "", 1.0: "K"}.get(slope, f"{slope:g} K")
    if not times or not rest:
        return times or f"{rest:g}"
    return f"{times} {'+' if rest > 0 else '-'} {abs(rest):g}"


def _posed(name: str) -> Posed:
    file = SMALL / f"{name}.txt"
    small = file.read_text(encoding="utf-8").split() if file.exists() else []
    config, choices = _composed(f"task={name}", "device=cpu", *small)
    built = parts(config, choices)
    refusals = {
        one: reason for one, method in methods().items() if (reason := _refusal(built, method))
    }
    return Posed(_composed(f"task={name}")[1], _scores(built), refusals)


def _refusal(built: Parts, method: Method) -> str:
    # Its solver has the step size of another task, which decides nothing here.
    solver, start = method.solver or built.loop.solver, method.start or built.loop.start
    loop = InnerLoop(built.task, solver, start)
    try:
        outer, data = trials.setting(built.task, loop, method.made, 3, 0, trials.AWAY)
        method.made.check(loop, outer, data)
    except (ValueError, CannotServe) as error:
        return " ".join(str(error).split())
    return ""


def _scores(built: Parts) -> list[str]:
    outer, data = trials.setting(built.task, built.loop, built.method, 1, 0, trials.AWAY)
    inner = built.loop.fresh(outer, data)["inner"]
    episodes = built.task.episodes
    if episodes is not None:
        inner = {name: value.expand(episodes, *value.shape) for name, value in inner.items()}
    return list(built.task.evaluate(built.loop, outer, inner))


def _composed(*overrides: str) -> tuple[DictConfig, dict[str, Any]]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    return config, dict(config.hydra.runtime.choices)


@contextmanager
def _exactly() -> Iterator[None]:
    """As bilevel-check asks: in float64, without graphs, and without what data sets warn of."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)
