"""A torch module as a pure function, whose parameters are arguments."""

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bilevel_cli.core.dtypes import computing_in
from bilevel_cli.core.trees import Params
from bilevel_cli.nn import (
    affine,
    attention,
    autocasting,
    corrections,
    filters,
    randomness,
    third_derivatives,
)

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Functional:
    """A module whose parameters are arguments.

    Parameters that do not require a gradient are constants, and so are buffers: they have the
    values of `module` whatever the start. Several threads may call one Functional at once.

    Args:
        make: Constructs the module. The parameters that it gives are a start.
        module: A module that `make` gave. Its trained parameters tell names, shapes and the device;
            their values are read only as the start of `seed`.
        seed: The seed under which `module` was made.
        attends: Whether the module calls torch's attention, some of whose kernels lack derivatives.
        corrects: Whether the module calls functions that `corrections` has derivatives for.
        not_twice: Why the module has no second derivative; empty where it has one.
    """

    make: Make = field(repr=False)
    module: nn.Module
    seed: int
    attends: bool
    corrects: bool
    not_twice: str
    _spare: list[nn.Module] = field(default_factory=list, init=False, repr=False, compare=False)
    _bodies: list[nn.Module] = field(default_factory=list, init=False, repr=False, compare=False)

    def init(self, generator: torch.Generator) -> Params:
        """Fresh parameters: what the constructor gives, on the device of the module.

        Args:
            generator: On the CPU; one seed gives one start on every device.

        Raises:
            ValueError: The constructor gives other names or shapes than before.
        """
        seed = _seed(generator)
        given = self.module if seed == self.seed else made(self.make, seed)
        start, expected = trained(given), trained(self.module)
        if {n: v.shape for n, v in start.items()} != {n: v.shape for n, v in expected.items()}:
            raise ValueError(
                f"A model needs a constructor that gives the same parameters at every call, got "
                f"{type(given).__name__}, which gives other names or shapes. Let its sizes depend "
                "on its arguments alone."
            )
        return {
            # Torch waits for a GPU before and after a copy from the host, unless it is told not to.
            name: start[name].detach().to(value.device, value.dtype, non_blocking=True, copy=True)
            for name, value in expected.items()
        }

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that are trained, each once."""
        return list(trained(self.module).items())

    def state_dict(self, params: Params) -> Params:
        """The module's state_dict with parameters `params`, constants and buffers included."""
        loaded = dict(self.module.state_dict())
        every = dict(self.module.named_parameters(remove_duplicate=False))
        names = {id(value): name for name, value in self.named_parameters()}
        for name, value in every.items():
            if name in loaded and id(value) in names:  # a tied parameter has several names
                loaded[name] = params[names[id(value)]]
        return loaded

    def apply(self, params: Params, x: Tensor) -> Tensor:
        """The module's output at `x` with parameters `params`.

        Args:
            params: A value for each of `named_parameters`.
            x: A batch of inputs [batch, ...].

        Returns:
            [batch, outputs]: the tensor that the module returns, or its `logits`; never bfloat16,
            whatever `autocasting` does within.
        """
        return self._call(self._spare, lambda: shared_copy(self.module), params, x)

    def features(self, params: Params, x: Tensor) -> Tensor:
        """What the last layer, `head`, is given at `x`, of shape [batch, features].

        Args:
            params: As for `apply`; those of the last layer may be absent.
            x: A batch of inputs [batch, ...].

        Raises:
            ValueError: The module has no layer of this name.
        """
        body = {name: value for name, value in params.items() if not name.startswith("head.")}
        return self._call(self._bodies, self._without_head, body, x)

    def _without_head(self) -> nn.Module:
        module = shared_copy(self.module)
        if not isinstance(getattr(module, "head", None), nn.Module):
            raise ValueError(
                f"Features are what a model's last layer `head` is given, got "
                f"{type(module).__name__} without one. Give its last layer that name."
            )
        module.head = nn.Identity()
        return module

    def _call(self, spare: list[nn.Module], copied: Make, params: Params, x: Tensor) -> Tensor:
        # During a call the module holds the parameters of that call. Two threads therefore need
        # two copies of the module: each call takes a spare one, or makes one.
        try:
            module = spare.pop()
        except IndexError:
            module = third_derivatives.routed(filters.routed(affine.routed(copied())))
            autocasting.routed(module)
        try:
            with (
                attention.exact_attention() if self.attends else contextlib.nullcontext(),
                corrections.Corrected() if self.corrects else contextlib.nullcontext(),
            ):
                return autocasting.widened(logits(autocasting.called(module, params, x)))
        finally:
            spare.append(module)


def functional(make: Make) -> Functional:
    """The module that `make` constructs, functional, unchecked: `building.build` checks one."""
    module = made(make, 0).to(torch.get_default_dtype())
    attends = any(isinstance(part, nn.MultiheadAttention) for part in module.modules())
    return Functional(make, module, 0, attends, True, "")


def made(make: Make, seed: int) -> nn.Module:
    """What a constructor gives under a seed, whichever of the shared generators it draws from.

    The parameters are float32 whatever the precision of the run: torch draws other numbers in other
    precisions, and one seed is to be one start (`bilevel_cli.core.draws`).
    """
    with randomness.apart(seed), computing_in(torch.float32):
        return make()


def next_seed(generator: torch.Generator) -> int:
    """The seed of the start that `generator` will draw next. The generator does not advance."""
    ahead = torch.Generator()
    ahead.set_state(generator.get_state())
    return _seed(ahead)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, each once."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy that shares the tensors of `module`, which no call changes, and nothing else."""
    memo: dict[int, Any] = {id(x): x for x in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, memo)


def logits(output: Any) -> Any:
    """The output of a module; of an object or a dict its `logits`, where it has them."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return output.get("logits", output)
    return getattr(output, "logits", output)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (1,), generator=generator))
