"""The code behind a configuration: which files, and whether they are as they were."""

import ast
import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.config import constructors
from bilevel_cli.config.targets import TARGET, targeted
from bilevel_cli.nn import blame
from bilevel_cli.records.settings import NOT_SETTINGS

Digests = dict[str, str]  # the first digits of SHA-256 of files, by the dotted names of modules


def digests(config: DictConfig) -> Digests:
    """The files in which the classes of a configuration are defined, and what these import.

    Of this package, and of what is installed, only the files with the classes themselves: their
    versions tell of the others.

    Args:
        config: The composed configuration.
    """
    found: Digests = {}
    with contextlib.suppress(OmegaConfBaseException):  # a wrong setting, which the run refuses
        for key in config:
            for _, node in targeted(config[key], str(key)) if key not in NOT_SETTINGS else ():
                found |= _of_class(str(node[TARGET]))
    return found


def changed(before: Digests, now: Digests) -> list[str]:
    """The modules that both know, and that are not as they were."""
    return sorted(name for name in before.keys() & now.keys() if before[name] != now[name])


def _of_class(name: str) -> Digests:
    definition = constructors.definition(name)
    path = definition and constructors.source(definition.module)
    if definition is None or path is None:
        return {}
    root = _root(path, definition.module)
    found: Digests = {}
    left = [definition.module]
    while left:
        module = left.pop()
        path = None if module in found else constructors.source(module)
        # What lies elsewhere is another project: it may be as large as torch.
        if path is not None and (not found or path.is_relative_to(root)):
            found[module] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            left += _imported(module) if _own(path) else ()
    return found


def _root(path: Path, module: str) -> Path:
    """The folder in which Python finds a module."""
    depth = module.count(".") + (path.name == "__init__.py")
    return path.parents[depth]


def _own(path: Path) -> bool:
    """Whether a file is a user's, neither of this package nor installed."""
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not str(path).startswith((blame.OURS, *blame.STANDARD))


def _imported(module: str) -> Iterator[str]:
    """The modules that a module may import: names that lead to no file are none."""
    for statement in ast.walk(constructors.parsed(module)):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            home = constructors.absolute(statement, module)
            yield home
            yield from (f"{home}.{alias.name}" for alias in statement.names)
