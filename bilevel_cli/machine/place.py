"""Which of the processes of a run this one is, as torchrun says.

Imports no torch: a command that is asked for help answers at once.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One process among those of a run.

    Attributes:
        rank: Its number. Number 0 composes the configuration and writes the files.
        count: How many processes the run has.
        local_rank: Its number on its machine, which is also the number of its GPU.
        local_count: How many processes of the run its machine has.
    """

    rank: int
    count: int
    local_rank: int
    local_count: int


def here() -> Place:
    """The place of this process, which is alone unless torchrun started it."""
    # Only torchrun sets this variable. Schedulers of clusters set RANK and WORLD_SIZE too.
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place(0, 1, 0, 1)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(os.environ[name]) for name in names))
