"""How long a run goes on, how often things happen in it, and what it does when numbers fail."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig

from bilevel_cli.config.arguments import fits, whole
from bilevel_cli.errors import UsageError
from bilevel_cli.records.plain import plain

if TYPE_CHECKING:  # a plan is made, and refused, before torch is imported
    from bilevel_cli.core.trees import Scalar

MOST_REPLICAS = 10_000
LONGEST = 100  # letters of a wrong value in a message


@dataclass(frozen=True)
class Schedule:
    """How often things happen, in outer steps; and how many inner steps one of them takes.

    Args:
        outer_steps: Outer steps of the run.
        inner_steps: Inner steps of an outer step.
        log_every: Outer steps between rows of train.csv.
        eval_every: Outer steps between rows of eval.csv; there is one before the first step too.
        save_every: Outer steps between checkpoints.
        budget: Inner gradients after which the run ends, whatever its outer steps, so that methods
            are compared at equal cost; None for none.
        retrain: Inner steps of the fresh solve that each evaluation reports besides, as
            `evaluation.retrained` says; None for no such solve.
    """

    outer_steps: int
    inner_steps: int
    log_every: int
    eval_every: int
    save_every: int
    budget: int | None
    retrain: int | None

    def __post_init__(self) -> None:
        for name, steps in vars(self).items():
            if steps is not None and steps < 1:
                raise ValueError(f"A run needs {name} >= 1, got {name}={steps}. Set {name}.")
            if steps is not None and steps >= 2**63:  # of which torch makes no tensor
                raise ValueError(f"A run needs {name} < 2^63, got {name}={steps}. Set {name}.")

    @property
    def cadence(self) -> tuple[int, int, int]:
        return self.log_every, self.eval_every, self.save_every

    def over(self, step: int, inner_grads: "Scalar") -> bool:
        """Whether a run ends after so many outer steps and inner gradients.

        Waits for no device: where there is a budget, what counts inner gradients is a number.
        """
        spent = self.budget is not None and inner_grads >= self.budget
        return step == self.outer_steps or bool(spent)


CHOICES = {"on_divergence": ("stop", "continue", "restore"), "resume": ("auto", "force")}


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Args:
        schedule: How often things happen.
        seed: Source of all random numbers.
        on_divergence: What to do where a number is not finite: "stop"; "continue" to the end,
            without checkpoints of what is not finite; or "restore", go back to the last checkpoint
            and halve the outer step size, `divergence.RESTORES` times at most.
        resume: "auto" to refuse a checkpoint of other settings or data, or "force" to warn.
        average: What the average of the outer parameters keeps of itself at an outer step, in
            (0, 1), as `averaged` says; None for no average.
        test_steps: Numbers of inner steps, ascending, after each of which an evaluation scores a
            new inner solve, as `evaluation.after_steps` says; () for none.
    """

    schedule: Schedule
    seed: int
    on_divergence: str
    resume: str
    average: float | None
    test_steps: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, options in CHOICES.items():
            got = getattr(self, name)
            if got not in options:
                raise ValueError(
                    f"A run needs {name} to be one of {', '.join(options)}, got {got}. Set {name}."
                )


def planned(config: DictConfig) -> Plan:
    """The plan that a configuration asks for.

    Raises:
        UsageError: A setting is of a wrong type.
        ValueError: A setting is out of its range.
    """
    steps = Schedule.__annotations__.items()
    schedule = Schedule(**{name: whole(config, name, hint) for name, hint in steps})
    return Plan(
        schedule,
        whole(config, "seed"),
        config.on_divergence,
        config.resume,
        _average(config.average),
        _test_steps(config.test_steps),
    )


def _average(given: Any) -> float | None:
    """What `average` asks for; 0 keeps nothing of the past, so there is no average to keep."""
    if not fits(given, float | None) or not 0 <= (given or 0) < 1:
        raise UsageError(
            "average needs a number from 0 to 1, without 1, got "
            f"{plain(str(given), LONGEST)}. Set e.g. average=0.999, or average=null for the last "
            "outer parameters."
        )
    return given or None


def _test_steps(given: Any) -> tuple[int, ...]:
    """The numbers of steps in `test_steps`, each once, the least first."""
    if given is None:
        return ()
    steps = list(given) if isinstance(given, ListConfig) else []
    if not steps or not all(fits(count, int) and 0 <= count < 2**63 for count in steps):
        raise UsageError(
            "test_steps needs a list of numbers of inner steps, whole and >= 0, got "
            f"{plain(str(given), LONGEST)}. Set e.g. test_steps=[0,1,5,50], or test_steps=null."
        )
    return tuple(sorted(set(steps)))


def replicas(config: DictConfig) -> int:
    """How many runs a configuration asks for.

    Raises:
        UsageError: Not a number of runs that one process can take.
    """
    count: int = whole(config, "replicas")
    if not 1 <= count <= MOST_REPLICAS:
        raise UsageError(
            f"A run needs replicas from 1 to {MOST_REPLICAS}, got replicas={count}. Set replicas."
        )
    return count
