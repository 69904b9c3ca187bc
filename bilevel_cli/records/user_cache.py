"""The folder of the user's in which files are kept that can be deleted at any time."""

import os
from pathlib import Path

import platformdirs

NOWHERE = Path(os.devnull, "bilevel-cli")  # below a file nothing can be written, nor is anything


def user_cache() -> Path:
    """The folder, below XDG_CACHE_HOME on Linux; `NOWHERE` where nobody knows of a home.

    So it is in a container that runs as a user whom it does not know. Whoever keeps something in
    this folder does without it where it cannot be written, and so without a home too.
    """
    try:
        found = platformdirs.user_cache_path("bilevel-cli")
    except RuntimeError:
        return NOWHERE
    return found if found.is_absolute() else NOWHERE  # of an earlier version of platformdirs
