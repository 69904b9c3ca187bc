"""Settings that nothing reads: typos that Hydra takes for new names.

`+zzz=1` adds a setting to a configuration, and so does a line of a yaml file. A setting is read by
the code, if it stands in conf/config.yaml or in a group; by a class, whose arguments are checked
where it is built; or by another setting that names it: `outer_steps: ${zzz}`.
"""

import dataclasses
import functools
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config import constructors, options, resolvers
from bilevel_cli.config.application import hydras_own, option_folders
from bilevel_cli.config.options import CONF
from bilevel_cli.config.targets import TARGET
from bilevel_cli.errors import UsageError, hint

SUGGEST = "suggest"
GLOBAL = "experiment"  # the group whose options are put at the top, and not below its name
SAID = ("help", "hydra_help", "overrides")  # of Hydra's own: texts that are shown, not read
HYDRAS_OWN = ("hydra.env",)  # a group of Hydra's without a place in its schema


def check_read(config: DictConfig) -> None:
    """Refuses settings that neither the code nor a class nor another setting reads.

    Args:
        config: The whole configuration, with Hydra's own below `hydra` or in `HydraConfig`.

    Raises:
        UsageError: There is one.
    """
    own = hydras_own(config)
    texts = {key: "\n".join(_interpolations(tree)) for key, tree in _raw(config).items()}
    if own is not None:
        raw = _raw(own.hydra)
        read = {key: raw[key] for key in raw if key not in SAID}
        texts["hydra"] = "\n".join(_interpolations(read))

    def named(name: str) -> bool:
        """Whether a setting elsewhere reads this one, or one with this last word."""
        word = re.compile(rf"(?<!\w){re.escape(name.rpartition('.')[2])}(?!\w)")
        return any(word.search(text) for key, text in texts.items() if key != name)

    for name, known in _doubtful(config, own):
        if not named(name):
            raise UsageError(
                f"Nothing reads {name}{hint(name, known)} Remove it, or have a setting read it: "
                f"${{{name}}}."
            )
    _check_model(config, own)


def _doubtful(config: DictConfig, own: DictConfig | None) -> Iterator[tuple[str, Collection[str]]]:
    """Settings that no code reads, each with the names that its own may be a typo of."""
    tops = _tops()
    yield from ((str(name), tops) for name in config if name not in tops)
    suggest = config.get(SUGGEST)
    for key in suggest if isinstance(suggest, DictConfig) else ():
        if key not in (known := _suggested(option_folders(own))):
            yield f"{SUGGEST}.{key!s}", [f"{SUGGEST}.{name}" for name in known]
    if own is not None:
        yield from _beside_the_schema(own.hydra, "hydra")


def _beside_the_schema(node: DictConfig, name: str) -> Iterator[tuple[str, Collection[str]]]:
    """The entries of Hydra's own configuration that its schema does not have."""
    schema = OmegaConf.get_type(node)
    if not dataclasses.is_dataclass(schema):
        return
    known = [f"{name}.{field.name}" for field in dataclasses.fields(schema)]
    for key in map(str, node):
        where = f"{name}.{key}"
        if where not in (*known, *HYDRAS_OWN):
            yield where, known
        elif not (OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key)):
            inner = node[key]
            if isinstance(inner, DictConfig):
                yield from _beside_the_schema(inner, where)


def _check_model(config: DictConfig, own: DictConfig | None) -> None:
    """Refuses a model that was asked for, where the task has none."""
    asked = [] if own is None else [str(text).lstrip("+") for text in own.hydra.overrides.task]
    typed = next((text for text in asked if re.match(r"model[=.@]", text)), None)
    target = OmegaConf.select(config, f"task.{TARGET}")
    if typed is None or config.get("model") is None or target is None:
        return
    taken = constructors.parameters(str(target))
    if taken is not None and "model" not in taken:
        name = str(target).rpartition(".")[2]
        raise UsageError(f"Nothing reads {typed[:100]}: {name} takes no model. Leave it out.")


def _raw(config: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(config, resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _interpolations(tree: Any) -> Iterator[str]:
    """The texts in nested dicts and lists that read other settings."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for value in tree:
            yield from _interpolations(value)
    elif isinstance(tree, str) and "${" in tree:
        yield tree[tree.index("${") :]


@functools.cache
def _tops() -> frozenset[str]:
    """The names at the top of a configuration that the code reads."""
    general = (str(key) for key in OmegaConf.load(CONF / "config.yaml") if key != "defaults")
    groups = (name for name in options.groups() if "/" not in name and name != GLOBAL)
    return frozenset([*general, *groups, SUGGEST, "hydra"])


@functools.cache
def _suggested(folders: tuple[Path, ...]) -> frozenset[str]:
    """The names below `suggest` that some option reads, whether it is chosen or not."""
    texts = (
        path.read_text(encoding="utf-8", errors="replace")
        for folder in folders
        for path in folder.rglob("*.yaml")
    )
    found = (name for text in texts for name in re.findall(rf"{SUGGEST}\.(\w+)", text))
    return frozenset([*found, *resolvers.READ])
