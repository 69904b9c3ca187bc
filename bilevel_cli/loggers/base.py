"""The interface of loggers, and what a run tells them."""

import abc
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bilevel_cli.nn import blame
from bilevel_cli.records.table import Row

log = logging.getLogger(__name__)

LONGEST = 128  # characters of a run's name, which tools limit


class Logger(abc.ABC):
    """Copies the rows of a run to another tool while it goes on. The CSV files stay the truth."""

    @abc.abstractmethod
    def begin(self, directory: Path, settings: dict[str, Any], step: int) -> None:
        """A run begins, or is continued.

        Args:
            directory: Of the run, by which a tool knows it again.
            settings: The resolved configuration.
            step: Outer steps already taken; rows after it come again.
        """

    @abc.abstractmethod
    def write(self, table: str, row: Row) -> None:
        """A row was written.

        Args:
            table: "train" or "eval".
            row: Its columns, `step` among them.
        """

    @abc.abstractmethod
    def end(self, status: str) -> None:
        """The run ended, with a status as in its manifest."""


class Loggers:
    """Several loggers, of which none can end a run: one that fails is dropped with a warning.

    A run that is refused ends before it begins. Its loggers are told of neither.

    Args:
        loggers: By the names of their yaml options.
    """

    def __init__(self, loggers: dict[str, Logger]) -> None:
        self._loggers = dict(loggers)
        self._begun = False

    def begin(self, directory: Path, settings: dict[str, Any], step: int) -> None:
        self._begun = True
        self._tell(lambda logger: logger.begin(directory, settings, step))

    def write(self, table: str, row: Row) -> None:
        self._tell(lambda logger: logger.write(table, row))

    def end(self, status: str) -> None:
        if self._begun:
            self._tell(lambda logger: logger.end(status))
        self._begun = False

    def _tell(self, what: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                what(logger)
            except Exception as error:  # of a network, of a service: anything
                del self._loggers[name]
                reason = blame.explained(error)
                log.warning("%s gets no more rows, the CSV files do: %s", name, reason)


def title(directory: Path) -> str:
    """What a tool calls the run in a folder: the end of its path, which tells most.

    `reweight-reverse/2026-11-30_18-22-00-123456`, or `three/method=reverse,seed=0` in a sweep.
    """
    return "/".join(directory.absolute().parts[-2:])[-LONGEST:]


def require(package: str, extra: str) -> None:
    """Raises ValueError where a package that a logger needs is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"loggers=[{extra}] needs the package {package}, which is not installed. "
            f"Run pip install 'bilevel-cli[{extra}]'."
        )
