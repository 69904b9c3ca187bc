"""What a run changes in its process, and puts back: a command may leave it, a notebook may not."""

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.plugins import Plugins

from bilevel_cli.config.options import CONF
from bilevel_cli.sweeps import plugins

# Hydra, torch's settings and the command line belong to the process: runs on threads take turns.
_turn = threading.RLock()


@contextlib.contextmanager
def command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Makes this the process of `bilevel-run` with some arguments, until the context ends.

    What a run notes as its command then repeats it in a shell. Other calls wait for the end.
    """
    with _turn:
        before = sys.argv
        sys.argv = ["bilevel-run", *arguments]
        try:
            yield
        finally:
            sys.argv = before


@contextlib.contextmanager
def hydra_of_conf() -> Iterator[None]:
    """Starts Hydra on conf/; nothing is said of plugins that cannot be imported."""
    with warnings.catch_warnings():
        plugins.ignore_broken()
        Plugins.instance()  # finds them, the first time
    with warnings.catch_warnings(), initialize_config_dir(str(CONF), version_base="1.3"):
        # Of tqdm, in a notebook without ipywidgets, whatever is the first to import it.
        warnings.filterwarnings("ignore", "IProgress not found")
        yield


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Writes what the package logs to a file as well, until the context ends.

    Besides, it goes where the caller's own logging takes it: by default, warnings and errors go to
    standard error.

    Raises:
        OSError: The file cannot be written.
    """
    logger = logging.getLogger("bilevel_cli")
    file = logging.FileHandler(path)
    file.handleError = lambda record: None  # type: ignore[method-assign] # a full disk ends no run
    handlers: list[logging.Handler] = [file, _ToTheCaller()]
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.level, logger.propagate = before
        logger.setLevel(logger.level)


class _ToTheCaller(logging.Handler):
    """Hands records on to the root logger, which would not ask for their level."""

    def emit(self, record: logging.LogRecord) -> None:
        root = logging.getLogger()
        if root.isEnabledFor(record.levelno):
            root.handle(record)
