"""Tables of one's own: written to a file, read, and read again as the message proposes."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from data_files import built
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from problems import seeded
from torch import Tensor

from bilevel_cli.data.base import Source
from bilevel_cli.data.table import OwnTable, Table

AMOUNTS = np.round(np.random.default_rng(0).normal(4000, 3000, 60), 2)
DAYS = pd.date_range("2019-12-25", periods=60, freq="37D")
LABELS = np.array(["no", "yes"])[np.arange(60) % 2]


def own(path: Path | None, cls: type[OwnTable] = Table, **settings: Any) -> Any:
    chosen = {"path": path and str(path), "target": "churn", "max_megabytes": 1.0} | settings
    return built(cls, "table", **chosen)


def written(folder: Path, content: "str | bytes | pd.DataFrame", name: str = "my.csv") -> Path:
    path = folder / name
    if isinstance(content, pd.DataFrame):
        content = content.to_csv(index=False)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def everything(data: Source) -> Tensor:
    """All rows of all parts, in the order of their numbers."""
    parts = data.splits(seeded(0))
    order = torch.cat([part.index for part in parts]).argsort()
    return torch.cat([part.x for part in parts])[order]


def proposed(message: str) -> list[str]:
    """What a message says should be added to the command, as a shell splits it."""
    found = re.search(r"\b[Aa]dd (.+)$", message)
    return shlex.split(found[1]) if found else []


def settings(words: list[str]) -> dict[str, Any]:
    """The settings of `data` in words of a command line, as Hydra reads them."""
    parsed = OverridesParser.create().parse_overrides(words)
    return {one.key_or_group.removeprefix("data."): _plain(one.value()) for one in parsed}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.text if isinstance(value, QuotedString) else value


def followed(
    path: Path, cls: type[OwnTable] = Table, rounds: int = 1, **given: Any
) -> tuple[Any, list[str]]:
    """The table once messages are followed, and what they said. They may be `rounds` at most."""
    said: list[str] = []
    while True:
        data = own(path, cls, **given)
        try:
            data.read()
            return data, said
        except ValueError as error:
            said.append(str(error))
            assert len(said) <= rounds, said
            assert "\n" not in said[-1]
            assert len(said[-1].replace(str(path.parent), "")) <= 400
            given |= settings(proposed(said[-1]))


def european(number: float, thousands: str = ".") -> str:
    return f"{number:_.2f}".replace(".", ",").replace("_", thousands)


def table(values: Iterable[object], separator: str = ";", encoding: str = "utf-8") -> bytes:
    frame = pd.DataFrame({"price": list(values), "churn": LABELS})
    return frame.to_csv(index=False, sep=separator).encode(encoding)
