"""The files of conf/ as readers see them: settings, defaults, comments, what they bring."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf

from bilevel_cli.config import options, settings_help
from bilevel_cli.config.option_files import OptionFile
from bilevel_cli.config.options import CONF
from sitemaker import markdown


class Setting(NamedTuple):
    """One line of a yaml file.

    Attributes:
        name: As one types it, `solver.lr`.
        default: As the yaml has it.
        comment: Behind it there; else what is known of it from elsewhere.
        meaning: What the constructor says of the argument.
    """

    name: str
    default: str
    comment: str
    meaning: str


def target(group: str, option: str) -> Any:
    """The class or function that an option configures; None where it configures several."""
    node = merged(group, option)
    # Some stand below the name of their group, and those of which several are chosen below theirs.
    below = (node, node.get(group), node.get(option))
    names = (place["_target_"] for place in below if place and "_target_" in place)
    name = next(names, None)
    return get_object(name) if name else None


def settings(group: str, option: str) -> list[Setting]:
    """Those of an option, without the options that it chooses in other groups."""
    chain = [OptionFile(group, path) for path in files(group, option)]
    meanings: dict[str, str] = {}
    for file in chain:
        meanings |= {name: text for name, text in file.arguments().items() if text}
    choices = {choice.key for file in chain for choice in file.choices()}
    return [
        Setting(*one, meanings.get(one.key, ""))
        for one in settings_help.settings(group, option)
        if one.key not in choices
    ]


def within(group: str, option: str) -> list[Setting]:
    """Those of the options that an option chooses for its own parts, such as its linear solver."""
    return [
        setting
        for place, choice in brings(group, option).items()
        if place.startswith(f"{group}/") and choice != "null"
        for setting in [*settings(place, choice), *within(place, choice)]
    ]


def top_level() -> list[Setting]:
    """Those of conf/config.yaml, which belong to no group."""
    return [Setting(*one, "") for one in settings_help.general()]


def brings(group: str, option: str) -> dict[str, str]:
    """The options of other groups that this one chooses, by group, or by place within it."""
    choices = (
        choice for path in files(group, option) for choice in OptionFile(group, path).choices()
    )
    return {choice.key: choice.default for choice in choices if choice.key != group}


def first_comment(group: str, option: str) -> str:
    return options.first_comment(CONF / group / f"{option}.yaml")


def files(group: str, option: str) -> list[Path]:
    """The file of an option, behind those that it inherits from."""
    path = CONF / group / f"{option}.yaml"
    parents = [one.default for one in OptionFile(group, path).choices() if one.key == group]
    return [file for parent in parents for file in files(group, parent)] + [path]


def merged(group: str, option: str) -> dict[str, Any]:
    """What the files of an option say, the later over the earlier."""
    trees = [OmegaConf.load(path) for path in files(group, option)]
    whole = OmegaConf.to_container(OmegaConf.merge(*trees), resolve=False)
    assert isinstance(whole, dict)
    return {str(key): value for key, value in whole.items() if key != "defaults"}


def is_list(group: str) -> bool:
    """Whether several options of a group can be chosen."""
    tree = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    return {group: []} in tree["defaults"]


def table(rows: Iterable[Setting]) -> str:
    """Settings as a table; nothing where there are none."""
    cells = [[f"`{row.name}`", f"`{row.default}`", explained(row)] for row in rows]
    return markdown.table(["setting", "default", "meaning"], cells) if cells else ""


def explained(row: Setting) -> str:
    """What a setting means, by its constructor and by its yaml, as Markdown."""
    if row.meaning and row.comment not in ("", row.meaning):
        return f"{markdown.escaped(row.meaning)} ({markdown.escaped(row.comment)})"
    return markdown.escaped(row.meaning or row.comment)
