"""Where Python looks for the classes that a user's own yaml files name."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_SAFE = "PYTHONSAFEPATH"


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


@contextlib.contextmanager
def workers_elsewhere() -> Iterator[None]:
    """Keeps Python, started within, from importing what lies in the working directory.

    Launchers start workers by `python -m` and `python -c`, which look there before anywhere else:
    a torch.py in a folder of data would run. Where this process looks there itself, they may too.
    """
    before = os.environ.get(_SAFE)
    if not {"", _here()} & set(sys.path):
        os.environ[_SAFE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_SAFE, None)
        os.environ.update({} if before is None else {_SAFE: before})


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""
