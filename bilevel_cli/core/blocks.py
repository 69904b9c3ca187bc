"""Minibatches: examples cut into blocks, of which every epoch visits each exactly once."""

import torch
from torch import Tensor

from bilevel_cli.core.problem import Batch
from bilevel_cli.core.random import Stream


def epochs(name: str, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws `count` numbers below `size`, each once before any comes again.

    A `Stream` goes on with the epoch of that name where the last call stopped; a plain generator
    begins a new one at each call, so that its seed alone decides what is drawn.

    Args:
        name: Of the sequence of epochs.
        size: Length of an epoch.
        count: How many to draw.
        generator: On the device of the result.
    """
    left = generator.order(name) if isinstance(generator, Stream) else None
    pieces = [] if left is None else [left]
    missing = count - sum(map(len, pieces))
    while missing > 0:
        pieces.append(torch.randperm(size, generator=generator, device=generator.device))
        missing -= size
    drawn = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    if isinstance(generator, Stream):
        generator.orders[name] = drawn[count:]
    return drawn[:count]


class Blocks:
    """Examples in blocks of `batch_size`, the unit of minibatches and of memories of gradients.

    The last block is filled up with examples of weight zero. Weights are such that the mean over
    blocks of `mean(losses, block)` is the mean over examples, whatever the sizes.

    Args:
        examples: Tensors of shape [n, ...], in random order.
        batch_size: Examples of a block; None for one block with all of them, without weights.
    """

    def __init__(self, examples: Batch, batch_size: int | None) -> None:
        some = next(iter(examples.values()))
        size = len(some)
        self.count = 1 if batch_size is None else -(-size // batch_size)
        if batch_size is None:
            self.tensors = {name: value[None] for name, value in examples.items()}
        else:
            rows = torch.arange(self.count * batch_size, device=some.device)
            weight = (rows < size).to(torch.get_default_dtype()) * (self.count / size)
            if len(rows) > size:
                rows = rows.clamp(max=size - 1)
                examples = {name: value[rows] for name, value in examples.items()}
            self.tensors = {
                name: value.reshape(self.count, batch_size, *value.shape[1:])
                for name, value in {**examples, "weight": weight}.items()
            }
        self.tensors["block"] = torch.arange(self.count, device=some.device)

    def draw(self, name: str, count: int, generator: torch.Generator) -> Batch:
        """`count` blocks, as tensors of shape [count, batch_size, ...] and their numbers, `block`.

        Args:
            name: Of the epochs, such as "inner".
            count: How many.
            generator: On the device of the examples; a `Stream` to continue its epochs.
        """
        if self.count == 1:  # without a copy
            return {n: value.expand(count, *value.shape[1:]) for n, value in self.tensors.items()}
        numbers = epochs(name, self.count, count, generator)
        return {n: value.index_select(0, numbers) for n, value in self.tensors.items()}

    def one(self, name: str, generator: torch.Generator) -> Batch:
        """One block, without the leading dimension."""
        return {n: value[0] for n, value in self.draw(name, 1, generator).items()}


def mean(losses: Tensor, batch: Batch) -> Tensor:
    """The mean of losses of shape [batch_size] over the examples of a block. 0-dim."""
    return (batch["weight"] * losses).sum() if "weight" in batch else losses.mean()


def check_batch_size(who: str, setting: str, batch_size: int | None, examples: int) -> None:
    """Raises ValueError unless blocks of `batch_size` can be cut from so many examples.

    Args:
        who: The class that needs them, for the message.
        setting: Name of the setting, for the message.
        batch_size: Examples of a block, or None for all.
        examples: Number of all examples.
    """
    if batch_size is not None and not 1 <= batch_size <= examples:
        raise ValueError(
            f"{who} needs {setting} from 1 to {examples}, all its examples, got "
            f"{setting}={batch_size}. Use {setting}=null for all of them."
        )
