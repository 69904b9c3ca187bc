"""What torchrun says of this process.

Imports no torch: a command that is asked for help answers at once.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One process among those of a run.

    Attributes:
        rank: Its number; 0 is the one that composes the configuration and writes the files.
        count: Of the processes.
        local_rank: Its number on its machine, and that of its GPU.
        local_count: Of the processes on its machine.
    """

    rank: int
    count: int
    local_rank: int
    local_count: int


def here() -> Place:
    """That of this process: alone, unless torchrun started it."""
    # By its own variable: others, such as schedulers, set RANK and WORLD_SIZE too.
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place(0, 1, 0, 1)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(os.environ[name]) for name in names))
