"""The commands, run in this process: importing torch again takes seconds."""

import csv
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bilevel_cli.commands import run

# Besides torch, what takes long to import, and is imported where it is used.
LIBRARIES = ["sympy", "sklearn", "scipy", "pandas", "matplotlib", "PIL", "pooch", "torchvision"]


def exit_code(
    name: str, main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> int:
    """That of the command of this name and function."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def bilevel_run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of bilevel-run, which is not run in the mode of `conftest`."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with torch.enable_grad():
        return exit_code("bilevel-run", run.main, monkeypatch, *arguments)


def close_logs() -> None:
    """Closes the log of the last run, which a process of its own closes when it ends."""
    for handler in logging.getLogger().handlers[:]:
        handler.close()
        logging.getLogger().removeHandler(handler)


def numbers(path: Path) -> list[dict[str, str]]:
    """The rows as text, bit for bit, without what measures the machine."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {name: text for name, text in row.items() if name not in ("seconds", "peak_memory_mb")}
        for row in rows
    ]
