"""The interface of loggers, and what a run tells them."""

import abc
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bilevel_cli.records.table import Row

log = logging.getLogger(__name__)


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

    Args:
        loggers: By the names of their yaml options.
    """

    def __init__(self, loggers: dict[str, Logger]) -> None:
        self._loggers = dict(loggers)

    def begin(self, directory: Path, settings: dict[str, Any], step: int) -> None:
        self._tell(lambda logger: logger.begin(directory, settings, step))

    def write(self, table: str, row: Row) -> None:
        self._tell(lambda logger: logger.write(table, row))

    def end(self, status: str) -> None:
        self._tell(lambda logger: logger.end(status))

    def _tell(self, what: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                what(logger)
            except Exception as error:  # of a network, of a service: anything
                del self._loggers[name]
                reason = (str(error) or type(error).__name__).splitlines()[0]
                log.warning("%s gets no more rows, the CSV files do: %s", name, reason)


def require(package: str, extra: str) -> None:
    """Raises ValueError where a package that a logger needs is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"loggers=[{extra}] needs the package {package}, which is not installed. "
            f"Run pip install 'bilevel-cli[{extra}]'."
        )
