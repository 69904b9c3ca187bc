"""Parts of labelled examples in which every class has its share."""

from collections.abc import Sequence

import torch
from torch import Tensor


def stratified(order: Tensor, labels: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Cuts rows into disjoint parts of given sizes, each class shared out in proportion.

    A class with as many rows as there are parts is in each of them, and one with fewer rows is in
    the first of them, unless a part has fewer places than there are such classes. Otherwise rows
    are shared out by largest remainder, class after class, the smallest first, on the places that
    are left; so the sizes are exact.

    Args:
        order: The rows to cut, in random order, int64, of shape [m]. Each part keeps this order.
        labels: Of all rows, from 0 on, int64, of shape [n].
        sizes: Of the parts, >= 0, with a sum <= m. Rows beyond it are left out.

    Returns:
        The rows of each part.
    """
    places = [*sizes, len(order) - sum(sizes)]  # the last part is what is left out
    counts: list[int] = labels[order].bincount().tolist()
    smallest_first = sorted(range(len(counts)), key=counts.__getitem__)
    owed = _owed([counts[label] for label in smallest_first], sizes)
    kept = [sum(rows) for rows in zip(*owed, strict=True)]
    given: dict[int, list[int]] = {}
    for label, least in zip(smallest_first, owed, strict=True):
        kept = [others - own for others, own in zip(kept, least, strict=True)]
        given[label] = _shared(counts[label], places, least, kept)
        places = [place - rows for place, rows in zip(places, given[label], strict=True)]
    by_class = labels[order].argsort(stable=True)
    shares = torch.tensor([given[label] for label in range(len(counts))], dtype=torch.long)
    part = torch.empty_like(order)
    numbers = torch.arange(len(places)).repeat(len(counts))
    part[by_class] = numbers.repeat_interleave(shares.flatten())
    return [order[part == number] for number in range(len(sizes))]


def stratified_folds(order: Tensor, labels: Tensor, count: int) -> Tensor:
    """The fold of each row, int64, of shape [n]. Sizes of folds differ by one row at most.

    So do the numbers of rows that folds have of any class.

    Args:
        order: All rows, in random order, int64, of shape [n].
        labels: Of shape [n].
        count: Number of folds.
    """
    by_class = order[labels[order].argsort(stable=True)]
    fold = torch.empty_like(order)
    fold[by_class] = torch.arange(len(order)) % count
    return fold


def _owed(counts: list[int], sizes: Sequence[int]) -> list[list[int]]:
    """The rows of each class that each part must have: one, or none. Nothing is owed to the rest.

    Args:
        counts: Of the rows of the classes, the smallest first.
        sizes: Of the parts.
    """
    owed = [[0] * (len(sizes) + 1) for _ in counts]
    parts = [part for part, size in enumerate(sizes) if size]
    for number, part in enumerate(parts):
        # A class of two rows is in the first two parts. Of a part with fewer places than there are
        # classes for it, the largest classes get one each.
        served = [place for place, count in enumerate(counts) if count > number]
        for place in served[-sizes[part] :]:
            owed[place][part] = 1
    return owed


def _shared(count: int, places: list[int], owed: list[int], kept: list[int]) -> list[int]:
    """How many of `count` rows each part gets: in proportion to its places, by largest remainder.

    Args:
        count: Rows of a class.
        places: That the parts have left.
        owed: Rows that each part gets at least.
        kept: Places of each part that other classes are owed.
    """
    quota = [count * place / sum(places) for place in places]
    most = [place - other for place, other in zip(places, kept, strict=True)]
    given = [
        min(max(int(share), least), room)
        for share, least, room in zip(quota, owed, most, strict=True)
    ]
    while (missing := count - sum(given)) != 0:
        step = 1 if missing > 0 else -1
        free = [
            part
            for part, rows in enumerate(given)
            if (rows < most[part] if missing > 0 else rows > owed[part])
        ]
        # max keeps the first of equals, so that one order of rows gives one cut.
        part = max(free, key=lambda part: step * (quota[part] - given[part]))
        given[part] += step
    return given
