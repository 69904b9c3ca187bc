"""Folders, as a user would type them."""

import os
from pathlib import Path


def short(path: Path) -> str:
    """The path from the working directory on, where it is below that; else the whole path."""
    whole = os.path.abspath(path)
    near = os.path.relpath(whole)
    return whole if near.startswith(os.pardir) else near
