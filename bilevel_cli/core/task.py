"""The interface of tasks: bilevel problems that draw their own data and score what was learned."""

import abc
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, Problem, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.vocabulary import HIGHER_IS_BETTER


class Task(Problem, abc.ABC):
    """A bilevel problem with data and a score: the only thing a task author writes.

    The constructor takes the entries of the task's yaml. It is also given those of the following
    that it names: `device` (torch.device), `data` (what conf/data builds), `model` (what conf/model
    builds), and `generator` (on the CPU, for splits and label noise: the same for all methods of
    one seed). A setting that cannot serve is a ValueError there, before any work.

    Once built, a task never changes. It keeps its tensors on `device`, and returns new tensors or
    views of its own, which nobody writes into.

    Attributes:
        episodes: The number of independent inner problems under one set of outer parameters, which
            is the leading dimension of all that `sample` returns; None for one inner problem, and
            no such dimension.
        needs: The kind of data that the task is posed on: a class of `bilevel_cli.data.base`, or
            several, any of which will do. None for a task that brings its own data.
        blocks: The numbers of blocks (`bilevel_cli.core.blocks`) of inner and of outer examples,
            where every minibatch is a block and has its number, `block`; else None.
        statement: What a reader of the scores must know of the data, in one line.
        checksum: Of the data that were delivered; None for a task that brings its own.
        constants: In words, what the derivatives of the task take for a constant of z although it
            depends on z (`bilevel_cli.core.constants`). Claims of methods repeat it.
        higher_is_better: Patterns of the names of scores that are better higher; all other scores
            are better lower.
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
        """The outer parameters before the first step, floating, on the device of the task.

        Args:
            generator: On the CPU, so that one seed gives one start on every device.
        """

    def init_inner(self, outer: Params, data: StepData) -> Params:
        """The inner parameters at which a fresh inner solve begins: those that `sample` returned.

        A task in which they depend on outer parameters says so here.

        Args:
            outer: The outer parameters.
            data: The data of one inner problem, without a dimension of episodes.
        """
        del outer
        return data.init

    @abc.abstractmethod
    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        """Draws the data of one outer step, without a wait for the device.

        Args:
            num_steps: K >= 1, the leading dimension of `inner`, behind that of episodes.
            generator: On the device of the task. All random numbers come from it.

        Returns:
            Tensors on the device of the task; `noise` and `extra` are left empty.
        """

    @abc.abstractmethod
    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        """f(z, lambda), as `Problem` says."""

    @abc.abstractmethod
    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        """F(z, lambda), likewise."""

    def whole(self) -> dict[str, Batch]:
        """Both sums over all examples, where a minibatch is a part of them.

        Returns:
            "inner" and "outer": batches as `inner_loss` and `outer_loss` take them, on the device
            of the task. Empty, unless a task says otherwise: its minibatches are whole.
        """
        return {}

    def project_outer(self, outer: Params) -> Params:
        """The nearest admissible outer parameters, with the same keys, shapes and device.

        All parameters are admissible unless a task says otherwise. Projecting twice is projecting
        once. It is called after each outer step, and within methods that try parameters.

        Args:
            outer: All outer parameters of the run, those of the start and the solver among them.
        """
        return outer

    def deployed(self, outer: Params) -> Params:
        """The outer parameters as they are used when the run is over: those of a fresh solve.

        What was learned, unless a task says otherwise, such as one that decides between choices
        which its outer parameters weigh. The task may wait for the device.

        Args:
            outer: All outer parameters of the run.

        Returns:
            Outer parameters with the same keys, shapes and device.
        """
        return outer

    def spent(self, steps: int) -> dict[str, int]:
        """What the task itself spends, besides the derivatives that methods count.

        Nothing, unless a task says otherwise. It is the same at every outer step.

        Args:
            steps: Outer steps taken.

        Returns:
            What these took together: more columns of train.csv, the same at every call.
        """
        del steps
        return {}

    @abc.abstractmethod
    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        """The scores, as 0-dim tensors: the columns of eval.csv, the most telling one first.

        The same arguments give the same scores: random numbers come from a generator begun anew.
        The keys and their order are the same at every call. The task may wait for the device.

        Args:
            loop: The inner loop of the run.
            outer: The outer parameters.
            inner: The last inner iterate, with a leading dimension where there are episodes.
        """

    def evaluate_after(
        self, loop: InnerLoop, outer: Params, counts: Sequence[int]
    ) -> dict[int, dict[str, Tensor]]:
        """The scores of held-out episodes after each of several numbers of inner steps.

        `test_steps` asks a task with episodes for them. By default there are none, and the mean
        outer loss of new episodes is reported.

        Args:
            loop: The inner loop of the run.
            outer: The outer parameters.
            counts: Numbers of inner steps, >= 0 and ascending. One solve passes through them all.

        Returns:
            0-dim tensors by name, the most telling score first, for each of `counts`; or nothing.
        """
        del loop, outer, counts
        return {}

    def write_results(
        self, directory: Path, loop: InnerLoop, outer: Params, inner: Params
    ) -> list[Path]:
        """Writes all files of a finished run.

        Those of `save_result`, unless the files of a task need inner solves of their own.

        Args:
            directory: An existing folder.
            loop: The inner loop of the run.
            outer: The outer parameters.
            inner: As in `evaluate`.

        Returns:
            The files that were written.

        Raises:
            OSError: The folder cannot be written to.
        """
        del loop
        return self.save_result(directory, outer, inner)

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes what was learned in a form people can use.

        By default `outer.pt`, the outer parameters by name, for torch.load(weights_only=True).

        Args:
            directory: An existing folder.
            outer: The outer parameters.
            inner: As in `evaluate`.

        Returns:
            The files that were written.

        Raises:
            OSError: The folder cannot be written to.
        """
        del inner
        path = directory / "outer.pt"
        with path.open("wb") as file:  # opened here, it says what the system refused
            torch.save({name: value.cpu() for name, value in outer.items()}, file)
        return [path]


class FieldTask(Task):
    """A task whose inner problem is a vector field: z*(lambda) is a root, G(z*, lambda) = 0.

    The inner loss of it is |G|^2 / 2, a number to look at: whether an inner loop nears a root.
    """

    @abc.abstractmethod
    def inner_field(self, inner: Params, outer: Params, batch: Batch) -> Params:
        """G(z, lambda) on a minibatch, with the keys and shapes of z. Inner solvers step along it.

        Args:
            inner: z, as in `inner_loss`.
            outer: lambda, as in `inner_loss`.
            batch: One entry of `StepData.inner`, tensors of shape [...].
        """

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        field = self.inner_field(inner, outer, batch)
        return 0.5 * trees.dot(field, field)
