"""The settings of an option: each with its default and what it is for.

A setting is described by the comment beside it in the yaml, or else by the docstring of the class
that takes it. Torch is not imported for either: `bilevel-run solver=gd?` answers at once.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bilevel_cli.config import options
from bilevel_cli.config.option_files import OptionFile, Setting
from bilevel_cli.config.options import CONF

_SWEPT = "hydra.sweeper.params."


def settings(group: str, option: str, folders: Sequence[Path] = ()) -> list[Setting]:
    """The settings of an option, with those of the option that it extends.

    Choices that the option makes in other groups are among them, such as `start: learned`. Empty
    for an option that does not exist, or that has no settings.

    Args:
        group: Such as "task" or "method/linear_solver".
        option: Such as "meta".
        folders: Where to look besides conf/: what --config-dir names.
    """
    chain = list(_chain(group, option, tuple(folders)))
    found = {one.key: one for file in chain for one in _own(file, tuple(folders))}
    told: dict[str, str] = {}
    for file in chain:
        for more in (_around(file, tuple(folders)), file.arguments()):
            told |= {key: text for key, text in more.items() if text}
    told = _general() | _suggestions() | told
    return [one._replace(comment=one.comment or _said(one.key, told)) for one in found.values()]


def _said(key: str, told: dict[str, str]) -> str:
    """What is known about a setting for which its own file has no comment."""
    swept = key.removeprefix(_SWEPT)
    return f"the values of {swept} in the sweep" if swept != key else told.get(key, "")


def general() -> list[Setting]:
    """The settings of conf/config.yaml, which every run has."""
    found = OptionFile("", CONF / "config.yaml").settings()
    return [one for one in found if not one.key.startswith("hydra.")]


def _chain(group: str, option: str, folders: tuple[Path, ...]) -> Iterator[OptionFile]:
    """The files of an option: first those that it extends."""
    path = options.path(group, option, folders)
    if path is None:
        return
    file = OptionFile(group, path)
    for choice in file.choices():
        if choice.key == group and choice.default != option:
            yield from _chain(group, choice.default, folders)
    yield file


def _own(file: OptionFile, folders: tuple[Path, ...]) -> Iterator[Setting]:
    """What a file chooses and sets. A choice without a comment is described later, or here."""
    arguments = file.arguments()
    for choice in file.choices():
        if choice.key == file.group:
            continue
        path = options.path(choice.key.partition("@")[0], choice.default, folders)
        said = [arguments.get(choice.key.replace("/", "."), ""), choice.comment]
        if not any(said):
            said = [options.first_comment(path) if path else "no option of this group"]
        yield choice._replace(comment=" ".join(filter(None, said)))
    chosen = {choice.key.replace("/", ".").partition("@")[0] for choice in file.choices()}
    yield from (one for one in file.settings() if one.key not in chosen)


def _around(file: OptionFile, folders: tuple[Path, ...]) -> dict[str, str]:
    """What the options that a file chooses in other groups say about their settings."""
    return {
        one.key: one.comment
        for choice in file.choices()
        if choice.key != file.group
        for one in _deep(choice.key.partition("@")[0], choice.default, folders)
    }


def _deep(group: str, option: str, folders: tuple[Path, ...]) -> Iterator[Setting]:
    """The settings of an option, and of the options that it chooses in groups within its own."""
    for one in settings(group, option, folders):
        yield one
        if one.key.startswith(f"{group}/"):
            yield from _deep(one.key.partition("@")[0], one.default, folders)


@functools.cache
def _general() -> dict[str, str]:
    """What is said of the settings of conf/config.yaml, and of the options that it chooses."""
    file = OptionFile("", CONF / "config.yaml")
    around = {
        one.key: one.comment
        for choice in file.choices()
        for chosen in _chain(choice.key, choice.default, ())
        for one in chosen.settings()
    }
    return around | {one.key: one.comment for one in general()}


@functools.cache
def _suggestions() -> dict[str, str]:
    """Of each suggestion: which settings follow it, where they are not set themselves."""
    following: dict[str, list[str]] = {}
    for path in [CONF / "config.yaml", *sorted(CONF.glob("*/*.yaml"))]:
        group = path.parent.relative_to(CONF).as_posix()
        for one in OptionFile("" if group == "." else group, path).settings():
            for name in re.findall(r"\$\{(?:oc\.select:)?(suggest\.\w+)[,}]", one.default):
                if one.key not in following.setdefault(name, []):
                    following[name].append(one.key)
    return {name: f"suggested for {', '.join(keys)}" for name, keys in following.items()}
