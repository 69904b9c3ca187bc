"""Whether a model is a function of its parameters and its input, found by calling it.

An outer step replays inner steps, on other threads and with other parameters. A model that
remembers something between calls, or draws random numbers, would be another function in the replay.
So `check` calls copies of the model, and compares what the calls leave behind. It changes neither
the model nor any generator.
"""

import copy
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bilevel_cli.core.trees import Params
from bilevel_cli.errors import out_of_memory
from bilevel_cli.nn import attention, autocasting, randomness
from bilevel_cli.nn.functional import Functional, logits, trained

MODULE = set(vars(nn.Module()))  # attributes that every module has
MOST = 5  # names in a list of a message
DEPTH = 8  # levels of containers and objects in an attribute that are compared
SEED = 2**40 + 7  # one that no forward is likely to set
BY_IDENTITY: Any = object.__eq__


@dataclass(frozen=True)
class Seen:
    """Something that a model does and must not do.

    Attributes:
        what: In words, such as "changes its input".
        way_out: What its author can do about it.
    """

    what: str
    way_out: str


def check(model: Functional, twin: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
    """Raises ValueError unless the model is a function of its parameters and its input.

    Args:
        model: The model.
        twin: What its constructor gave when called again under the same seed. It is changed.
        inputs: Two batches of different sizes, [batch, ...].
    """
    who = type(model.module).__name__
    if differing := _differing(_tensors(model.module), _tensors(twin)):
        raise ValueError(
            f"A model needs a constructor that a seed decides, got {who}, which gives other values "
            f"of {_named(differing)} when called again. Draw from torch's, numpy's or Python's own "
            "generators, and give none a seed of its own."
        )
    seen = _observed(model, twin, inputs)
    if seen:
        did = [one.what for one in seen]
        listed = did[0] if len(did) == 1 else f"{', '.join(did[:-1])} and {did[-1]}"
        raise ValueError(
            f"A model needs to be a function of its parameters and its input, got {who}, which "
            f"{listed}: an inner loop could not be replayed. {min(seen, key=_urgency).way_out}"
        )


class Attends(TorchFunctionMode):
    """Notes in `seen` whether a function of torch for attention is called within the context."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        name = getattr(func, "__name__", "")
        self.seen = self.seen or "attention" in name or "transformer" in name
        return func(*args, **(kwargs or {}))


def _observed(model: Functional, twin: nn.Module, inputs: tuple[Tensor, Tensor]) -> list[Seen]:
    module = model.module
    first = {name: value.detach().clone() for name, value in trained(module).items()}
    source = torch.Generator().manual_seed(0)
    second = {
        name: v + 0.1 * torch.randn(v.shape, generator=source, dtype=v.dtype).to(v.device)
        for name, v in first.items()
    }
    called, other = copied(module), copied(module)
    given = [inputs[0].clone(), inputs[1].clone()]
    kept = first | {f"second.{name}": value for name, value in second.items()}
    before = {name: value.clone() for name, value in kept.items()}
    versions = {name: value._version for name, value in (kept | _numbered(given)).items()}
    with randomness.apart(SEED), attention.exact_attention():
        start = randomness.states()
        _call(called, first, given[0])
        after = _call(called, second, given[1])
        drawn = [n for n, s in randomness.states().items() if not _same(s, start[n])]
        fresh = _call(other, second, inputs[1].clone())
        with torch.no_grad():
            for name, value in trained(twin).items():
                value.copy_(second[name])
        loaded = _call(twin, {}, inputs[1].clone())
        elsewhere = _slopes_differ(copied(module), twin, second, inputs[1])

    def touched(names: Iterable[str], now: Params, then: Params) -> list[str]:
        return [n for n in names if now[n]._version != versions[n] or not _equal(now[n], then[n])]

    now, numbered = _numbered(given), _numbered(inputs)
    seen = []
    if touched(now, now, numbered):
        seen.append(Seen("changes its input", IN_PLACE))
    if drawn:
        layers = _named(f"{type(m).__name__} '{n}'" for n, m in module.named_modules() if _draws(m))
        at = f" in {layers}" if layers else ""
        seen.append(Seen(f"draws random numbers{at} (from {_named(drawn)})", DRAWS))
    if changed := _differing(dict(called.named_buffers()), dict(module.named_buffers())):
        seen.append(Seen(f"changes its buffer {_named(changed)}", MEMORY))
    parameters = [n.removeprefix("second.") for n in touched(kept, kept, before)]
    parameters += _differing(dict(called.named_parameters()), dict(module.named_parameters()))
    if parameters:
        names = _named(dict.fromkeys(parameters))
        seen.append(Seen(f"changes its parameter {names}", PARAMETER))
    if not close(after, fresh):
        seen.append(Seen("gives another output when called again", DRAWS))
    if attributes := _attributes(called, other):
        seen.append(Seen(f"keeps state in its attribute {_named(attributes)}", STATE))
    if not seen and not close(loaded, fresh):
        seen.append(Seen("reads parameters that it was not given", ELSEWHERE))
    if not seen and elsewhere:
        seen.append(Seen("has derivatives that read parameters that it was not given", AGAIN))
    return seen


def _slopes_differ(module: nn.Module, twin: nn.Module, params: Params, x: Tensor) -> bool:
    """Whether gradients of a call with `params` are others than those of `twin`, which has them."""

    def slopes(module: nn.Module, given: Params, wanted: Params) -> tuple[Tensor, ...]:
        output = autocasting.widened(logits(autocasting.called(module, given, x.clone())))
        loss = output.square().sum()
        return torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)

    wanted = {name: value.clone().requires_grad_() for name, value in params.items()}
    try:
        with torch.enable_grad():
            found = slopes(module, wanted, wanted), slopes(twin, {}, dict(trained(twin)))
    except Exception as error:  # without a derivative, which `differentiability` tells of
        if out_of_memory(error):
            raise
        return False
    return not all(close(one, other) for one, other in zip(*found, strict=True))


IN_PLACE = (
    "Work on a copy: x = x - 1 instead of x -= 1, and no inplace=True in a layer that is given "
    "the input."
)
DRAWS = (
    "Draw nothing in forward: set dropout to 0, or call eval() on such layers in the constructor."
)
MEMORY = (
    "Use layers without memory, such as GroupNorm, or BatchNorm with track_running_stats=False; "
    "or call eval() on them in the constructor, and what they remember stays as it is."
)
PARAMETER = "Leave parameters as they are in forward: an Embedding needs max_norm=None."
STATE = "Compute it anew in each call, from the input."
ELSEWHERE = (
    "Keep parameters as attributes of modules, and no view, list or closure of them that the "
    "constructor made."
)
AGAIN = (
    "Leave out torch.utils.checkpoint, which computes again when the parameters of the call are "
    "gone; a method that keeps less, such as method=checkpointed, saves the memory."
)

WAYS = (IN_PLACE, MEMORY, PARAMETER, STATE, DRAWS, ELSEWHERE, AGAIN)


def _urgency(seen: Seen) -> int:
    """The place of a way out in WAYS: causes come before what follows from them."""
    return WAYS.index(seen.way_out)


def _call(module: nn.Module, params: Params, x: Tensor) -> Any:
    with torch.no_grad():
        return autocasting.widened(logits(autocasting.called(module, params, x)))


def copied(module: nn.Module) -> nn.Module:
    """A copy that shares nothing with `module`.

    Raises:
        ValueError: The module cannot be copied.
    """
    try:
        return copy.deepcopy(module)
    except Exception as error:  # a user's class may raise anything
        if out_of_memory(error):
            raise
        raise ValueError(
            f"A model needs to be copied, for threads that call it at once, got "
            f"{type(module).__name__}: {type(error).__name__}: {' '.join(str(error).split())}. "
            "Remove open files, locks and tensors with a graph from its attributes."
        ) from error


def _tensors(module: nn.Module) -> Params:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _numbered(tensors: Iterable[Tensor]) -> Params:
    return {f"input {number}": x for number, x in enumerate(tensors)}


def _differing(now: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> list[str]:
    return [name for name, x in then.items() if name not in now or not _equal(now[name], x)]


def _attributes(one: nn.Module, other: nn.Module) -> list[str]:
    """The names of attributes that differ, other than parameters, buffers and submodules."""
    found = []
    for (prefix, left), right in zip(one.named_modules(), other.modules(), strict=False):
        mine, others = vars(left), vars(right)
        for name in sorted((set(mine) | set(others)) - MODULE):
            missing = name not in mine or name not in others
            if missing or not _same(mine[name], others[name]):
                found.append(f"{prefix}.{name}" if prefix else name)
    return found


def _same(one: Any, other: Any, depth: int = DEPTH) -> bool:
    """Whether two values are alike, down to the attributes of objects, DEPTH levels deep."""
    if one is other or depth == 0 or isinstance(one, nn.Module):  # modules are visited by name
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return _equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
    if isinstance(one, torch.Generator):
        return torch.equal(one.get_state(), other.get_state())
    if isinstance(one, random.Random):
        return one.getstate() == other.getstate()
    if isinstance(one, np.random.Generator):
        return _same(one.bit_generator.state, other.bit_generator.state, depth - 1)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(
            _same(value, other[name], depth - 1) for name, value in one.items()
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(
            _same(*pair, depth - 1) for pair in zip(one, other, strict=True)
        )
    if getattr(type(one), "__eq__", None) is not BY_IDENTITY:
        return bool(one == other)
    if hasattr(one, "__dict__") and not callable(one):
        return _same(vars(one), vars(other), depth - 1)
    return callable(one) or " at 0x" in repr(one) or repr(one) == repr(other)


def _equal(one: Tensor, other: Tensor) -> bool:
    one, other = one.detach(), other.detach()
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def close(one: Any, other: Any) -> bool:
    """Whether two outputs are equal but for rounding: a kernel may add in another order."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return not isinstance(one, Tensor) and not isinstance(other, Tensor)
    if not one.is_floating_point():
        return _equal(one, other)
    scale = other.nan_to_num().abs().max() if other.numel() else 0
    tolerance = 1000 * torch.finfo(one.dtype).eps
    return torch.allclose(one, other, rtol=tolerance, atol=float(tolerance * scale), equal_nan=True)


def _draws(part: nn.Module) -> bool:
    # Recurrent layers and attention keep their rate of dropout in `dropout`, other layers in `p`.
    rates: list[Any] = [getattr(part, name, 0) for name in ("p", "dropout")]
    known = type(part).__module__.startswith("torch.nn.modules.")
    drawn = any(isinstance(rate, int | float) and rate > 0 for rate in rates)
    return part.training and known and (drawn or isinstance(part, nn.RReLU))


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:MOST]) + " ..." * (len(listed) > MOST)
