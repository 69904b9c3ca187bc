"""The interface of tasks: problems with data and a score."""

import abc
from pathlib import Path

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Problem, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.vocabulary import HIGHER_IS_BETTER


class Task(Problem, abc.ABC):
    """A bilevel problem with data and a score: the only thing a task author writes.

    The constructor's arguments are the entries of the task's yaml, and any of these, which are
    passed where it names them: `device` (torch.device), `data` (what conf/data builds), `model`
    (what conf/model builds), `generator` (on the CPU, for splits and label noise: the same for
    all methods of one seed).

    Attributes:
        episodes: Number of independent inner problems that one outer step shares, and the leading
            dimension of all that `sample` returns but noise; or None for one inner problem.
        needs: The kind of data that the task is posed on, a class of `bilevel_cli.data.base` or
            several of which any will do; or None for a task that brings its own.
        blocks: Numbers of blocks (`bilevel_cli.core.blocks`) of inner and of outer examples, where
            minibatches are blocks and say so by `block`; or None.
        statement: What a reader of the scores must know of the data, in one line.
        checksum: Of the data that were delivered; None for a task that brings its own.
        constants: What derivatives of the task take for constants of z although it depends on z
            (`bilevel_cli.core.constants`), in words, for the claims of methods.
        higher_is_better: Patterns of the names of scores that are; the others are better lower.
    """

    episodes: int | None = None
    needs: type | tuple[type, ...] | None = None
    blocks: tuple[int, int] | None = None
    statement: str = ""
    checksum: str | None = None
    constants: str = ""
    higher_is_better: tuple[str, ...] = HIGHER_IS_BETTER

    @abc.abstractmethod
    def init_outer(self, generator: torch.Generator) -> Params:
        """The outer parameters before the first step.

        Args:
            generator: On the CPU, so that one seed gives one start on every device.
        """

    @abc.abstractmethod
    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        """Draws the data of one outer step with `num_steps` inner steps.

        Args:
            num_steps: The leading dimension K of `inner`.
            generator: On the task's device.
        """

    def project_outer(self, outer: Params) -> Params:
        """The nearest admissible outer parameters; all are, unless a task says otherwise."""
        return outer

    @abc.abstractmethod
    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        """The scores, as 0-dim tensors: the columns of eval.csv, the most telling one first.

        The same at every call: random numbers come from a generator begun anew.

        Args:
            loop: The inner loop of the run.
            outer: The outer parameters.
            inner: The last inner iterate, with a leading dimension where there are episodes.
        """

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes what was learned in a form people can use; returns the files.

        By default `outer.pt`, the outer parameters by name, for torch.load(weights_only=True).
        """
        del inner
        path = directory / "outer.pt"
        with path.open("wb") as file:  # opened here, it says what the system refused
            torch.save({name: value.cpu() for name, value in outer.items()}, file)
        return [path]
