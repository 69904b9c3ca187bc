"""Builds the model of a run, and checks it before any work."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bilevel_cli.errors import out_of_memory
from bilevel_cli.nn import autocasting, blame, corrections, differentiability, purity, randomness
from bilevel_cli.nn.functional import Functional, Make, made, next_seed

Shape = tuple[int, ...]


def build(
    model: Callable[..., nn.Module],
    input_shape: Shape,
    num_outputs: int,
    device: torch.device,
    generator: torch.Generator | None = None,
    examples: Tensor | None = None,
) -> Functional:
    """Builds a model for inputs of `input_shape`, and checks it.

    The model must have `num_outputs` outputs: a tensor of shape [batch, num_outputs], or an object
    or a dict with such a tensor as `logits`. A user's model must also be a function of its
    parameters and its input (`purity`), and is tried for its derivatives (`differentiability`).
    Tests do these two checks for the models of this package.

    Args:
        model: A module class with some arguments given (`_partial_` in conf/model). The arguments
            `input_shape` and `num_outputs` are passed where its constructor names them.
        input_shape: Shape of one input, without the batch dimension.
        num_outputs: Number of outputs for each input.
        device: Where the parameters live.
        generator: On the CPU. It does not advance: constants and buffers are those of the start
            that it will draw next. None for those of seed 0.
        examples: Inputs to call the model on, of shape [n, *input_shape], n >= 1; None for random
            numbers from 0 to 1.

    Raises:
        ValueError: The model fails a check.
    """
    if isinstance(model, nn.Module):
        raise ValueError(
            f"A model needs a constructor, which each start calls, got a {type(model).__name__} "
            "that is made already. Hand over its class, or a function that makes it."
        )
    make = sized(model, input_shape, num_outputs)
    seed = 0 if generator is None else next_seed(generator)
    module = _constructed(make, seed, device)
    first, second = _batches(input_shape, device, examples)
    built = Functional(make, module, seed, attends=False, corrects=False, not_twice="")
    ours = type(module).__module__.startswith("bilevel_cli.")
    probe = built if ours else replace(built, module=purity.copied(module))
    observed, corrected = purity.Attends(), corrections.Corrected()
    with randomness.apart(purity.SEED), observed, corrected:
        output = _output(probe, first)
    _check_output(module, first, output, num_outputs)
    if ours:
        return built
    built = replace(built, attends=observed.seen, corrects=corrected.used)
    purity.check(built, _constructed(make, seed, device), (first, second))
    return replace(built, not_twice=differentiability.not_twice(built, first))


def sized(model: Callable[..., nn.Module], input_shape: Shape, num_outputs: int) -> Make:
    """The constructor of a model with the sizes that it names; arguments as of `build`."""
    given = {"input_shape": input_shape, "num_outputs": num_outputs}
    names = inspect.signature(model).parameters
    return partial(model, **{name: value for name, value in given.items() if name in names})


def _constructed(make: Make, seed: int, device: torch.device) -> nn.Module:
    try:
        module = made(make, seed)
    except Exception as error:
        if out_of_memory(error) or (isinstance(error, ValueError) and not blame.place(error)):
            raise  # which says all there is to say
        raise ValueError(f"model: its constructor failed: {blame.explained(error)}") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"A model needs to be a torch.nn.Module, got {type(module).__name__}.")
    who, parameters = type(module).__name__, list(module.parameters())
    if any(isinstance(value, nn.UninitializedParameter) for value in parameters):
        raise ValueError(
            f"A model needs parameters that its constructor draws, got {who} with lazy layers. "
            "Give them their sizes: `input_shape` is passed to a constructor that names it."
        )
    if not any(value.requires_grad for value in parameters):
        kind = "all of whose parameters are frozen" if parameters else "without parameters"
        raise ValueError(
            f"A model needs a parameter to train, got {who}, {kind}. Leave requires_grad of one "
            "layer as it is, such as its `head`."
        )
    return module.to(device=device, dtype=torch.get_default_dtype())


def _batches(
    input_shape: Shape, device: torch.device, examples: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Two batches, of 2 and of 3 inputs, in tensors that nothing else holds."""
    if examples is None:
        source = torch.Generator().manual_seed(0)
        examples = torch.rand(5, *input_shape, generator=source).to(device)
    rows = torch.arange(5, device=examples.device) % len(examples)
    return examples[rows[:2]].to(device), examples[rows[2:]].to(device)


def _output(model: Functional, x: Tensor) -> Any:
    try:
        with torch.no_grad():
            return model.apply(dict(model.named_parameters()), x.clone())
    except Exception as error:
        if out_of_memory(error):
            raise
        who = type(model.module).__name__
        if "same device" in str(error):
            raise ValueError(
                f"A model needs its tensors on {x.device}, got {who}, which mixes devices "
                f"({blame.place(error)}). {_to_device(model.module, x.device)}"
            ) from error
        whole = "" if x.is_floating_point() else " of whole numbers"
        raise ValueError(
            f"A model needs to take inputs of shape {list(x.shape[1:])}{whole}, got {who}, which "
            f"fails on them: {blame.explained(error)} {_way_out(str(error))}"
        ) from error


def _way_out(words: str) -> str:
    """What a user can do about a model that fails with these words."""
    if "required positional argument" in words:
        return "Its forward is given one tensor: cut several inputs out of it (docs/models.md)."
    if "device type tensor to numpy" in words:
        return "Numpy computes on a CPU alone: use torch's functions instead, or device=cpu."
    if autocasting.used() is not None and ("dtype" in words or "BFloat16" in words):
        return (
            "Some of its tensors are bfloat16 here: convert where two meet, y.to(x.dtype), or use "
            "device.precision=null."
        )
    return "Choose another model=..., or its sizes."


def _to_device(module: nn.Module, device: torch.device) -> str:
    """What a user can do about a model that has tensors elsewhere."""
    if elsewhere := _elsewhere(module, device):
        return (
            f"Its attribute {elsewhere} is no buffer, and stays where it was made: use "
            "register_buffer in the constructor."
        )
    return "Make tensors in its forward where the input is, torch.zeros(..., device=x.device)."


def _elsewhere(module: nn.Module, device: torch.device) -> str:
    """Names of attributes that hold tensors on another device; empty where there are none."""
    found = [
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in purity.MODULE
        and any(isinstance(x, Tensor) and x.device != device for x in tree_leaves(value))
    ]
    return ", ".join(sorted(found)[: purity.MOST])


def _check_output(module: nn.Module, x: Tensor, output: Any, num_outputs: int) -> None:
    who, needs = type(module).__name__, f"A model needs to return [batch, {num_outputs}] here"
    if not isinstance(output, Tensor):
        kinds: dict[type, str] = {tuple: "a tuple", list: "a list", type(None): "nothing"}
        named = "a dict" if isinstance(output, dict) else type(output).__name__
        kind = kinds.get(type(output), f"{named} without a tensor as `logits`")
        raise ValueError(
            f"{needs}, got {kind} from {who}. Return a tensor, or an object or a dict with a "
            "tensor as its `logits`."
        )
    if list(output.shape) != [2, num_outputs]:
        raise ValueError(
            f"{needs}, got {list(output.shape)} from {who} for a batch of 2. Give it "
            f"{num_outputs} outputs."
        )
    if output.device != x.device:
        raise ValueError(
            f"{needs}, on {x.device}, where its input is, got a tensor on {output.device} from "
            f"{who}. Leave out .cpu() and .to(...) in its forward."
        )
    if not output.is_floating_point():
        raise ValueError(f"{needs}, of floating numbers, got {output.dtype} from {who}.")
