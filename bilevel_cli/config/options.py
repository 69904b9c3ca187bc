"""The options under conf/: what there is, in one line each, and what a typo may have meant.

Imports neither torch nor the classes behind the options, but to say which data suit which task:
`bilevel-run method=?` answers at once.
"""

import functools
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.utils import get_object
from omegaconf import OmegaConf

from bilevel_cli.config import resolvers
from bilevel_cli.errors import hint

resolvers.register()

_PACKAGE = Path(__file__).parents[1]
# In a wheel conf/ lies inside the package; in a checkout, beside it. Hydra takes an absolute
# path as it is, whereas it would resolve "../conf" against the module name of a console script.
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())


def describe(group: str, folders: list[Path]) -> str:
    """The options of a config group, a line each: name and the first comment of the yaml.

    Args:
        group: Such as "task" or "method/linear_solver".
        folders: Where to look besides conf/: what --config-dir names.
    """
    files = _files(group, folders)
    if not files:
        known = ", ".join(groups())
        return f"There is no group {group!r}{hint(group, groups())} The groups are {known}."
    width = max(map(len, files))
    lines = [f"  {name:<{width}}  {first_comment(path)}" for name, path in sorted(files.items())]
    return "\n".join([f"{group}=", *lines])


def names(group: str, folders: Iterable[Path] = ()) -> list[str]:
    """The options of a group of conf/, and of the same group in other folders."""
    return sorted(_files(group, folders))


@functools.cache  # each command asks several times, and conf/ stays as it is
def groups() -> list[str]:
    """The config groups of conf/ that an experiment chooses from."""
    found = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    return sorted(name for name in found if name != "." and not name.startswith("hydra"))


def pairs(folders: Iterable[Path] = ()) -> dict[str, list[str]]:
    """The data options that each task can be posed on; none for a task that brings its own.

    Args:
        folders: Where to look besides conf/: what --config-dir names.
    """
    data = {name: _class(path, "data") for name, path in _files("data", folders).items()}
    needs = {name: _class(path, "task").needs for name, path in _files("task", folders).items()}
    return {
        task: sorted(name for name, source in data.items() if kind and issubclass(source, kind))
        for task, kind in sorted(needs.items())
    }


def describe_pairs(folders: list[Path]) -> str:
    """As `pairs`, a line for each task."""
    known = pairs(folders)
    width = max(map(len, known))
    lines = [f"  {task:<{width}}  {', '.join(data) or '-'}" for task, data in known.items()]
    return "\n".join(["data= for each task:", *lines])


def options_of_kind(group: str, kind: type | tuple[type, ...]) -> list[str]:
    """The options of a group whose `_target_` is a subclass of `kind`, on Hydra's search path."""
    ready = GlobalHydra.instance().is_initialized()
    with nullcontext() if ready else initialize_config_dir(str(CONF), version_base="1.3"):
        loader, fitting = GlobalHydra.instance().config_loader(), []
        for name in loader.get_group_options(group, ObjectType.CONFIG):
            path = f"{group}/{name}"
            source = next(source for source in loader.get_sources() if source.is_config(path))
            target = OmegaConf.select(source.load_config(path).config, "_target_")
            if target is None:  # that of the option which it extends; composing takes 0.1 s
                whole = compose("config", [f"{group}={name}"])
                target = OmegaConf.select(whole, f"{group}._target_")
            if target and issubclass(get_object(target), kind):
                fitting.append(name)
    return fitting


def keys(tree: object, prefix: str = "") -> list[str]:
    """The dotted names of all entries of nested dicts."""
    if not isinstance(tree, dict):
        return []
    return [
        name
        for key, value in tree.items()
        for name in (f"{prefix}{key}", *keys(value, f"{prefix}{key}."))
    ]


def path(group: str, option: str, folders: Iterable[Path] = ()) -> Path | None:
    """The file of an option; None where there is none."""
    return _files(group, folders).get(option)


def first_comment(path: Path) -> str:
    """What the file of an option says about it in its first line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.removeprefix("#").strip()
    return ""


def _files(group: str, folders: Iterable[Path]) -> dict[str, Path]:
    return {path.stem: path for root in (CONF, *folders) for path in (root / group).glob("*.yaml")}


def _class(path: Path, group: str) -> Any:
    """The class behind an option of `group`: its own `_target_`, or that of what it inherits."""
    node = OmegaConf.load(path)
    target = OmegaConf.select(node, "_target_") or OmegaConf.select(node, f"{group}._target_")
    if target is not None:
        return get_object(target)
    parent = next(name for name in node.defaults if isinstance(name, str) and name != "_self_")
    return _class(path.with_stem(parent), group)
