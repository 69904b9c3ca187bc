"""Minibatches: examples cut into blocks, of which every epoch visits each exactly once."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bilevel_cli.core.problem import Batch
from bilevel_cli.core.random import Epoch, Recorder, Replay, Stream

CHUNK = 2000  # examples that an evaluation holds in memory at once


def epochs(
    name: str, size: int, count: int, generator: torch.Generator | Recorder | Replay
) -> Tensor:
    """Draws `count` numbers below `size`, each once before any comes again.

    A `Stream` goes on with its epoch of that name where the last call stopped, and remembers where
    this one stops. A plain generator begins a new epoch at each call, so that its seed alone
    decides what is drawn.

    Args:
        name: Of the sequence of epochs, such as `random.INNER`; only a `Stream` uses it.
        size: Length of an epoch, the same at every call with this name.
        count: How many to draw, >= 1; they may be several epochs.
        generator: On the device of the result.

    Returns:
        int64, of shape [count].
    """
    if isinstance(generator, Recorder | Replay):
        return generator.next(Epoch(name, size, count))
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


def epochs_ahead(asked: Sequence[Epoch], steps: int, stream: Stream) -> list[Tensor]:
    """What `steps` outer steps draw one after another, each of them the same epochs.

    Args:
        asked: What one step asks for.
        steps: How many, >= 1.
        stream: Goes on behind the last number.

    Returns:
        For each epoch that is asked for, int64, of shape [steps, taken].
    """
    each = Counter[str]()  # numbers that a step takes of an epoch, in whatever many calls
    for epoch in asked:
        each[epoch.name] += epoch.taken
    found: list[list[Tensor]] = [[] for _ in asked]
    while asked and steps:
        left = {name: 0 if (o := stream.order(name)) is None else len(o) for name in each}
        # So many begin no new epoch. One that does is taken alone: which begins first counts.
        many = min(steps, *(left[name] // count for name, count in each.items()))
        rows = {}
        for name, count in each.items() if many else ():
            order = stream.orders[name]
            rows[name] = order[: many * count].reshape(many, count)
            stream.orders[name] = order[many * count :]
        for place, epoch in enumerate(asked):
            if many:
                piece, rows[epoch.name] = rows[epoch.name].tensor_split((epoch.taken,), dim=1)
            else:
                piece = epochs(*epoch, stream)[None]
            found[place].append(piece)
        steps -= max(many, 1)
    return [torch.cat(pieces) for pieces in found]


class Blocks:
    """Examples in blocks of `batch_size`, the unit of minibatches and of memories of gradients.

    The last block is filled up with copies of the last example, of weight zero. The weights are
    such that the mean over blocks of `mean(losses, block)` is the mean over examples, whatever the
    sizes. Nothing changes after construction.

    Args:
        examples: Tensors of shape [n, ...], n >= 1, on one device, in random order.
        batch_size: Examples of a block, from 1 to n (`check_batch_size`); None for one block with
            all examples, which are not copied and have no weights.

    Attributes:
        count: The number of blocks.
        tensors: All blocks: the examples as tensors of shape [count, batch_size, ...]; `weight`, of
            shape [count, batch_size], unless `batch_size` is None; and `block`, the number of each
            block, int64, of shape [count].
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
        self._repeated: dict[int, Batch] = {}  # by how often: views of a single block

    def draw(self, name: str, count: int, generator: torch.Generator) -> Batch:
        """Draws `count` blocks, with the names of `tensors`, as tensors of shape [count, ...].

        A single block is repeated without a copy and without a random number.

        Args:
            name: Of the epochs, such as `random.INNER`.
            count: How many, >= 1.
            generator: On the device of the examples; a `Stream` continues its epochs.
        """
        if self.count == 1:  # without a copy
            if count not in self._repeated:
                self._repeated[count] = {
                    n: value.expand(count, *value.shape[1:]) for n, value in self.tensors.items()
                }
            return dict(self._repeated[count])
        numbers = epochs(name, self.count, count, generator)
        return {n: value.index_select(0, numbers) for n, value in self.tensors.items()}

    def one(self, name: str, generator: torch.Generator) -> Batch:
        """Draws one block, without the leading dimension. Args: as `draw`."""
        return {n: value[0] for n, value in self.draw(name, 1, generator).items()}

    def whole(self) -> Batch:
        """All examples as one block without a number: views of `tensors`, but for the weights."""
        every = {n: x.flatten(0, 1) for n, x in self.tensors.items() if n != "block"}
        if "weight" in every:  # now the mean over examples is that of a single block
            every["weight"] = every["weight"] / self.count
        return every


def mean(losses: Tensor, batch: Batch) -> Tensor:
    """The mean over the examples of a block, 0-dim: weighted where the block has weights.

    Args:
        losses: One for each example, of shape [batch_size].
        batch: The block.
    """
    return (batch["weight"] * losses).sum() if "weight" in batch else losses.mean()


def in_chunks(fn: Callable[..., Tensor], *examples: Tensor) -> Tensor:
    """`fn` of all examples, a few at a time, for an evaluation that holds no more in memory.

    Args:
        fn: Gives each example its own result: from tensors of shape [m, ...] to one [m, ...].
        examples: What it is given, tensors of shape [n, ...].
    """
    parts = zip(*(torch.split(x, CHUNK) for x in examples), strict=True)
    return torch.cat([fn(*part) for part in parts])


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
