"""Where Python looks for the classes that a user's own yaml files name."""

import sys
from collections.abc import Iterable
from pathlib import Path


def look_beside(folders: Iterable[Path]) -> None:
    """Makes importable what is beside folders of options: `mine/sign.py` beside `mine/conf`.

    Python then looks where it would look if pytest ran a test from there: in the folder above, or
    where that is a package, in the folder that holds the package; and in the folder where the
    user is. These places come last, so that nothing installed is replaced. Without a folder of
    options nothing changes: a command line alone can name no class of others.

    Args:
        folders: What --config-dir names.
    """
    places = [holder(folder.absolute().parent) for folder in folders]
    if places:
        places.append(Path.cwd())
    sys.path += [name for name in dict.fromkeys(map(str, places)) if name not in sys.path]


def holder(folder: Path) -> Path:
    """The folder itself, or the first one above it that is no package, if it is a package."""
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
    return folder
