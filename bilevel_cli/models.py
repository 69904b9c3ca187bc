"""Inner models: ordinary torch modules of the literature, and how to make one functional."""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from bilevel_cli import linear
from bilevel_cli.normalization import BatchNorm2d
from bilevel_cli.pooling import AvgPool2x2, MaxPool2x2
from bilevel_cli.trees import Params

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Functional:
    """A module whose parameters are arguments.

    Args:
        module: The module. Its own parameters are never read but for their shapes.
    """

    module: nn.Module
    _spare: list[nn.Module] = field(default_factory=list, init=False, repr=False, compare=False)
    _bodies: list[nn.Module] = field(default_factory=list, init=False, repr=False, compare=False)

    def init(self, generator: torch.Generator) -> Params:
        """Fresh parameters from the module's own scheme, on the device of its parameters.

        Args:
            generator: On the CPU; one seed gives one initialisation on every device.
        """
        seed = int(torch.randint(2**62, (1,), generator=generator))
        module = copy.deepcopy(self.module).cpu()
        # Modules draw from the global generator, and cannot be asked to draw from another.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            module.apply(_reset)  # children first: a parent may set its children's anew
        return {
            name: value.detach().to(current.device)
            for (name, current), value in zip(
                self.named_parameters(), module.parameters(), strict=True
            )
        }

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.module.named_parameters())

    def apply(self, params: Params, x: Tensor) -> Tensor:
        """The module's output at `x` with parameters `params`, of the names of the module's."""
        return _call(self._spare, lambda: copy.deepcopy(self.module), params, x)

    def features(self, params: Params, x: Tensor) -> Tensor:
        """What the last layer, `head`, is given at `x`, of shape [batch, features].

        Args:
            params: As for `apply`; those of the last layer may be absent.
            x: A batch of inputs.
        """
        body = {name: value for name, value in params.items() if not name.startswith("head.")}
        return _call(self._bodies, self._without_head, body, x)

    def _without_head(self) -> nn.Module:
        module = copy.deepcopy(self.module)
        if not isinstance(getattr(module, "head", None), nn.Module):
            raise ValueError(
                f"Features are what a model's last layer `head` is given, got "
                f"{type(module).__name__} without one. Give its last layer that name."
            )
        module.head = nn.Identity()
        return module


def _call(
    spare: list[nn.Module], make: Callable[[], nn.Module], params: Params, x: Tensor
) -> Tensor:
    # functional_call puts the parameters into the module for the time of the call, so episodes
    # on two threads that shared a module would see each other's.
    try:
        module = spare.pop()
    except IndexError:
        module = linear.routed(make())
    try:
        return torch.func.functional_call(module, params, (x,))
    finally:
        spare.append(module)


def functional(module: nn.Module) -> Functional:
    """Makes `module` functional, where its output depends on its parameters and input alone.

    Raises:
        ValueError: For layers that keep a memory or draw random numbers.
    """
    for name, part in module.named_modules():
        if isinstance(part, _NormBase) and part.track_running_stats:
            raise ValueError(
                f"A model needs layers without memory, got {type(part).__name__} '{name}' with "
                "running statistics, which would leak between inner problems. Build it with "
                "track_running_stats=False, or use GroupNorm."
            )
        if part.training and _draws(part):
            raise ValueError(
                f"A model needs layers without random numbers, got {type(part).__name__} "
                f"'{name}': an inner loop could not be replayed. Set its dropout to 0."
            )
        own = dict(part.named_parameters(recurse=False))
        if own and _initialiser(part) is None:
            raise ValueError(
                f"A model needs reset_parameters() in every layer that owns parameters, got "
                f"{type(part).__name__} '{name}' with {', '.join(own)} and none. Add the method: "
                "fresh inner problems draw their parameters from it."
            )
    return Functional(module)


def build(
    model: Callable[..., nn.Module], input_shape: Shape, num_outputs: int, device: torch.device
) -> Functional:
    """Builds a model for inputs of `input_shape` and checks that it has `num_outputs` outputs.

    Args:
        model: A module class with some arguments given (`_partial_` in conf/model). The arguments
            `input_shape` and `num_outputs` are passed where its constructor names them.
        input_shape: Shape of one input, without the batch dimension.
        num_outputs: Number of outputs for each input.
        device: Where the parameters live.
    """
    given = {"input_shape": input_shape, "num_outputs": num_outputs}
    names = inspect.signature(model).parameters
    module = model(**{name: value for name, value in given.items() if name in names})
    built = functional(module.to(device=device, dtype=torch.get_default_dtype()))
    probe = torch.zeros(2, *input_shape, device=device)
    try:
        output = built.apply(dict(built.named_parameters()), probe)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"A model needs to take inputs of shape {list(input_shape)}, got "
            f"{type(module).__name__}, which fails on them: {str(error).splitlines()[0]} "
            "Choose another model=..., or its sizes."
        ) from error
    shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != [2, num_outputs]:
        raise ValueError(
            f"A model needs to return [batch, {num_outputs}] here, got {shape} from "
            f"{type(module).__name__} for a batch of 2. Give it {num_outputs} outputs."
        )
    return built


def _draws(part: nn.Module) -> bool:
    # Recurrent layers and attention keep their rate in `dropout`.
    rate = part.p if isinstance(part, _DropoutNd) else getattr(part, "dropout", 0)
    return isinstance(part, nn.RReLU) or (isinstance(rate, int | float) and rate > 0)


def _initialiser(part: nn.Module) -> Callable[[], None] | None:
    # torch itself spells it with an underscore in MultiheadAttention.
    return getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)


def _reset(part: nn.Module) -> None:
    initialise = _initialiser(part)
    if initialise is not None:
        initialise()


def _check_width(model: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{model} needs {name} >= 1, got {name}={size}. Set model.{name}.")


def _check_image(model: str, input_shape: Shape) -> None:
    if len(input_shape) != 3:
        raise ValueError(
            f"{model} needs images of shape [channels, height, width], got inputs of shape "
            f"{list(input_shape)}. Use model=linear or model=mlp."
        )


class Linear(nn.Module):
    """One affine layer on the flattened input, begun at zero: softmax regression.

    Args:
        input_shape: Shape of one input.
        num_outputs: Number of outputs.
    """

    bias = True

    def __init__(self, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        self.head = _ZeroLinear(math.prod(input_shape), num_outputs, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class LinearNoBias(Linear):
    """As `Linear`, without a constant term."""

    bias = False


class _ZeroLinear(nn.Linear):
    # The convex problem has one minimiser, and zero is the start that favours no class.
    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class Mlp(nn.Module):
    """Affine layers with an activation between them, on the flattened input.

    Args:
        width: Number of units of each hidden layer.
        depth: Number of hidden layers.
        activation: Name of an activation in torch.nn.functional, or "identity" for none.
        input_shape: Shape of one input.
        num_outputs: Number of outputs.
    """

    def __init__(
        self, width: int, depth: int, activation: str, input_shape: Shape, num_outputs: int
    ) -> None:
        super().__init__()
        _check_width("Mlp", width=width, depth=depth)
        activations = {"relu", "softplus", "sigmoid", "tanh", "gelu", "silu", "elu", "identity"}
        if activation not in activations:
            raise ValueError(
                f"Mlp needs one of the activations {', '.join(sorted(activations))}, "
                f"got activation={activation}."
            )
        identity = activation == "identity"
        self.activation = nn.Identity() if identity else getattr(nn.functional, activation)
        sizes = [math.prod(input_shape), *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.head(x)


class Conv4(nn.Module):
    """The four-block network of few-shot learning (Vinyals et al., 2016, arXiv:1606.04080).

    Each block is a 3x3 convolution, batch normalisation by the statistics of the batch at hand,
    2x2 max-pooling and ReLU; pooling ends where a side is down to one pixel, which admits small
    images. Then one affine layer, `head`. ReLU and pooling commute, exactly; this order takes 0.8
    of the time of the forward pass.

    Args:
        width: Number of filters of each block.
        input_shape: (channels, height, width) of one image.
        num_outputs: Number of outputs.
    """

    def __init__(self, width: int, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        _check_width("Conv4", width=width)
        _check_image("Conv4", input_shape)
        channels, *sides = input_shape
        blocks: list[nn.Module] = []
        for _ in range(4):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=1),
                BatchNorm2d(width),
            ]
            if min(sides) >= 2:
                blocks.append(MaxPool2x2())
                sides = [side // 2 for side in sides]
            blocks.append(nn.ReLU())
            channels = width
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(width * math.prod(sides), num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class ConvNet(nn.Module):
    """The network of dataset distillation (Gidaris & Komodakis, 2018; Zhao et al., 2021).

    Each block is a 3x3 convolution, instance normalisation, ReLU and 2x2 average-pooling
    (arXiv:2006.05929); then one affine layer, `head`. As there, images of one channel are padded
    by 3 pixels in the first block, which makes 32x32 of MNIST's 28x28.

    Args:
        width: Number of filters of each block.
        depth: Number of blocks; an image needs sides of at least 2^depth pixels.
        input_shape: (channels, height, width) of one image.
        num_outputs: Number of outputs.
    """

    def __init__(self, width: int, depth: int, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        _check_width("ConvNet", width=width, depth=depth)
        _check_image("ConvNet", input_shape)
        channels, *sides = input_shape
        padding = 3 if channels == 1 else 1
        sides = [side + 2 * (padding - 1) for side in sides]
        if min(sides) < 2**depth:
            raise ValueError(
                f"ConvNet needs images with sides >= 2^depth = {2**depth}, "
                f"got {list(input_shape[1:])}. Lower model.depth."
            )
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=padding),
                nn.GroupNorm(width, width),  # one group a channel: instance normalisation
                nn.ReLU(),
                AvgPool2x2(),
            ]
            channels, padding, sides = width, 1, [side // 2 for side in sides]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(width * math.prod(sides), num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))
