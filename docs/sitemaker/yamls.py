"""The files of conf/ as readers see them: settings, defaults, comments, what they bring."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf

from bilevel_cli.config.options import CONF
from sitemaker import markdown

LINE = re.compile(r"^( *)([\w./@-]+):(.*?)(?:\s#\s*(.*))?$")


class Setting(NamedTuple):
    """One line of a yaml file.

    Attributes:
        name: As one types it, `solver.lr`.
        default: As the yaml has it.
        comment: Behind it there.
        meaning: What the constructor says of the argument.
    """

    name: str
    default: str
    comment: str
    meaning: str


def target(group: str, option: str) -> Any:
    """The class or function that an option configures; None where it configures several."""
    node = merged(group, option)
    name = node.get("_target_") or (node.get(group) or {}).get("_target_")
    return get_object(name) if name else None


def settings(group: str, option: str) -> list[Setting]:
    """Those of an option, without those of the options it brings along."""
    chain = files(group, option)
    comments: dict[str, str] = {}
    for path in chain:
        comments.update(_comments(path.read_text(encoding="utf-8")))
    tree = merged(group, option)
    prefix = "" if _is_global(chain[-1]) else _prefix(group, option)
    return list(_walk(tree, prefix, "", comments, {}))


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
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    tree = {k: v for k, v in yaml.safe_load(text).items() if k not in ("defaults", "hydra")}
    return list(_walk(tree, "", "", _comments(text), {}))


def brings(group: str, option: str) -> dict[str, str]:
    """The options of other groups that this one chooses, by group, or by place within it."""
    found: dict[str, str] = {}
    for path in files(group, option):
        for entry in _defaults(path):
            if isinstance(entry, dict):
                ((where, choice),) = entry.items()
                place = where.removeprefix("override ")
                name = place.split("@")[0]
                name = name.removeprefix("/") if name.startswith("/") else f"{group}/{name}"
                found[name] = "null" if choice is None else str(choice)
    return found


def first_comment(group: str, option: str) -> str:
    text = (CONF / group / f"{option}.yaml").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("# @package"))
    return next(lines).removeprefix("#").strip()


def files(group: str, option: str) -> list[Path]:
    """The file of an option, behind those that it inherits from."""
    path = CONF / group / f"{option}.yaml"
    parents = [entry for entry in _defaults(path) if isinstance(entry, str) and entry != "_self_"]
    return [file for parent in parents for file in files(group, parent)] + [path]


def merged(group: str, option: str) -> dict[str, Any]:
    """What the files of an option say, the later over the earlier."""
    trees = [OmegaConf.load(path) for path in files(group, option)]
    whole = OmegaConf.to_container(OmegaConf.merge(*trees), resolve=False)
    assert isinstance(whole, dict)
    return {str(key): value for key, value in whole.items() if key != "defaults"}


def is_list(group: str) -> bool:
    """Whether several options of a group can be chosen."""
    return f"\n  - {group}: []" in (CONF / "config.yaml").read_text(encoding="utf-8")


def inline(value: Any) -> str:
    """A value as one writes it into yaml."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def table(rows: list[Setting]) -> str:
    """Settings as a table; nothing where there are none."""
    if not rows:
        return ""
    cells = [[f"`{row.name}`", f"`{row.default}`", explained(row)] for row in rows]
    return markdown.table(["setting", "default", "meaning"], cells)


def explained(row: Setting) -> str:
    """What a setting means, by its constructor and by its yaml, as Markdown."""
    if row.meaning and row.comment:
        return f"{markdown.escaped(row.meaning)} ({markdown.escaped(row.comment)})"
    return markdown.escaped(row.meaning or row.comment)


def _is_global(path: Path) -> bool:
    return path.read_text(encoding="utf-8").startswith("# @package _global_")


def _prefix(group: str, option: str) -> str:
    return f"{group}.{option}" if is_list(group) else group.replace("/", ".")


def _defaults(path: Path) -> list[Any]:
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    found: list[Any] = tree.get("defaults") or []
    return found


def _walk(
    tree: dict[str, Any],
    prefix: str,
    place: str,
    comments: dict[str, str],
    meanings: dict[str, str],
) -> Any:
    """The settings below a node: each with its comment, found by its place in the file."""
    if name := tree.get("_target_"):
        meanings = _arguments(name)
    for key, value in tree.items():
        if key in ("_target_", "_partial_", "defaults") or value == "???":
            continue
        full, here = (f"{at}.{key}" if at else str(key) for at in (prefix, place))
        if isinstance(value, dict) and value:
            yield from _walk(value, full, here, comments, {})
        else:
            yield Setting(full, inline(value), comments.get(here, ""), meanings.get(str(key), ""))


def _arguments(name: str) -> dict[str, str]:
    """What our own class or function says of its arguments."""
    return markdown.docstring(get_object(name)).args if name.startswith("bilevel_cli") else {}


def _comments(text: str) -> dict[str, str]:
    """The comment behind each line of a yaml file, by the dotted place of its key."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []  # the keys that this line stands below, with their columns
    for line in text.splitlines():
        match = LINE.match(line)
        if match is None or line.lstrip().startswith(("#", "- ")):
            continue
        column, key, comment = len(match[1]), match[2], match[4]
        above = [(at, name) for at, name in above if at < column] + [(column, key)]
        if comment:
            found[".".join(name for _, name in above)] = comment
    return found
