"""Where things are in the repository."""

import inspect
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def home(thing: Any) -> str:
    """A link to the file that defines a class or function of ours; the module of another's."""
    if not thing.__module__.startswith("bilevel_cli"):
        return f"`{thing.__module__}`"
    file = Path(inspect.getfile(thing)).resolve().relative_to(ROOT)
    return f"[{file}]({project()['urls']['Repository']}/blob/main/{file})"


@cache
def project() -> dict[str, Any]:
    """The table of pyproject.toml that describes the project."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found: dict[str, Any] = tomllib.loads(text)["project"]
    return found
