"""The bilevel-init command: a method, a task, a model or a data set of one's own, to begin with."""

import argparse
import ast
import keyword
import os
import re
import shlex
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from bilevel_cli import __version__
from bilevel_cli.config import options
from bilevel_cli.config.own_code import holder
from bilevel_cli.errors import UsageError
from bilevel_cli.machine import streams

SKELETONS = Path(__file__).parents[1] / "skeletons"
SMALL = "outer_steps=20"

DESCRIPTION = """\
Writes a method, a task, a model or a data set of your own that works as it stands: a Python file,
its yaml, and its test. Then says which commands run it. Change what the comments point at.

  bilevel-init method sign                   mine/sign.py, mine/conf/method/sign.yaml, a test
  bilevel-init task pricing --into shop      shop/pricing.py, shop/conf/task/pricing.yaml, a test

Exit codes: 0 written; 2 a name that cannot serve, or a file that is there already; 3 a file could
not be written.
"""


class Kind(NamedTuple):
    """What is written for one kind of part, and how it is tried.

    Attributes:
        what: For the user.
        example: The name that it has in `skeletons`.
        run: Arguments of bilevel-run besides the option itself.
        check: Arguments of bilevel-check, likewise; None where it has nothing to check.
    """

    what: str
    example: str
    run: tuple[str, ...]
    check: tuple[str, ...] | None


KINDS = {
    "method": Kind("the method", "last_steps", ("task=quadratic", SMALL), ()),
    "task": Kind("the task", "shrinkage", (SMALL,), ("method=reverse,cg",)),
    "model": Kind("the model", "two_layers", ("task=hpo", "inner_steps=20", SMALL), None),
    "data": Kind("the data set", "two_moons", ("task=hpo", "inner_steps=20", SMALL), None),
}
# Texts that Hydra does not take for names of options.
VALUES = ("null", "true", "false", "inf", "nan")


@streams.stands("bilevel-init")
def main() -> None:
    """Runs the command. Exit codes as in its description."""
    parser = argparse.ArgumentParser(
        prog="bilevel-init",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS, help="what it is to be")
    parser.add_argument("name", metavar="NAME", help="its name: small letters, digits and _")
    parser.add_argument(
        "--into", type=Path, default=Path("mine"), metavar="FOLDER", help="a folder (mine)"
    )
    parser.add_argument("--version", action="version", version=f"bilevel-init {__version__}")
    arguments = parser.parse_intermixed_args()
    kind, name, folder = arguments.kind, arguments.name, arguments.into
    try:
        check_name(kind, name)
        written = write(kind, name, folder)
    except (UsageError, OSError) as error:
        reason = f"--into needs a folder it can write, got {error}." if error.args[1:] else error
        print(f"bilevel-init: {reason}", file=sys.stderr)
        sys.exit(3 if isinstance(error, OSError) else UsageError.code)
    print("\n".join(told(kind, name, folder, written)))


def check_name(kind: str, name: str) -> None:
    """Checks that Python and Hydra can both take a name, and that nothing else bears it.

    Raises:
        UsageError: They cannot.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        words = re.findall(r"[A-Za-z][a-z0-9]*|[0-9]+", re.sub(r"\W", "_", name, flags=re.ASCII))
        near = "_".join(words).lower()
        good = name.isascii() and near[:1].isalpha()
        hint = f". Did you mean {near!r}?" if good else "."
        raise UsageError(
            f"NAME needs small letters, digits and _, and a letter first, got {name!r}{hint}"
        )
    group = options.names(kind)
    if keyword.iskeyword(name) or name in VALUES:
        taken = "a word of Python's or Hydra's"
    elif name in group or (options.CONF / kind / name).is_dir():
        taken = f"an option already: see bilevel-run {kind}=?"
    elif name in sys.stdlib_module_names:
        taken = "a module of Python's"
    elif _found(name):
        taken = "the name of an installed package"
    elif camel(name) in _imported(_source(kind)):
        taken = f"a class that its file imports, {camel(name)}"
    else:
        return
    raise UsageError(f"NAME needs a name that is free, got {name!r}, which is {taken}. Add a word.")


def write(kind: str, name: str, folder: Path) -> list[Path]:
    """Writes the files, and makes the folder a package.

    Returns:
        The files: the code, its yaml, its test.

    Raises:
        UsageError: One of them is there, or the folder cannot be a package.
        OSError: They cannot be written.
    """
    package = _package(folder)
    source = _source(kind)
    module, old = source.stem, f"bilevel_cli.skeletons.{kind}.{source.stem}"
    texts = {
        folder / f"{name}.py": source,
        folder / "conf" / kind / f"{name}.yaml": source.with_suffix(".yaml"),
        folder / f"test_{name}.py": source.with_name(f"test_{module}.py"),
    }
    if there := next((path for path in texts if path.exists()), None):
        raise UsageError(f"{there} is there already. Choose another NAME, or --into FOLDER.")
    for path, template in texts.items():
        text = template.read_text(encoding="utf-8").replace(old, f"{package}.{name}")
        text = re.sub(rf"\b{camel(module)}\b", camel(name), text)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    (folder / "__init__.py").touch()
    return list(texts)


def told(kind: str, name: str, folder: Path, written: list[Path]) -> list[str]:
    """What was written and what to type next, a line each."""
    what = KINDS[kind]
    whats = (f"{what.what}: change what its comments point at", "its settings", "its test")
    width = max(len(str(path)) for path in written)
    lines = [f"{path!s:<{width}}  {text}" for path, text in zip(written, whats, strict=True)]
    option = ["--config-dir", str(folder / "conf"), f"{kind}={name}"]
    commands = [["pytest", str(written[-1])], ["bilevel-run", *option, *what.run]]
    if what.check is not None:
        commands.append(["bilevel-check", *option, *what.check])
    return ["Wrote", *(f"  {line}" for line in lines), "", "Next"] + [
        f"  {shlex.join(command)}" for command in commands
    ]


def camel(name: str) -> str:
    """The name of the class: last_steps becomes LastSteps."""
    return "".join(word.capitalize() for word in name.split("_"))


def _package(folder: Path) -> str:
    """The dotted name of a folder as a package, by which its yaml and its test import from it.

    Raises:
        UsageError: It has none, or Python would find something else by it.
    """
    whole = Path(os.path.abspath(folder))  # not resolved: a link has the name it was given
    if whole.exists() and not whole.is_dir():
        raise UsageError(f"--into needs a folder, got the file {folder}.")
    root = holder(whole.parent)
    parts = whole.relative_to(root).parts
    package = ".".join(parts)
    bad = [part for part in parts if not part.isidentifier() or keyword.iskeyword(part)]
    if bad or not parts:
        raise UsageError(
            f"--into needs a folder whose name Python can import, got {bad[0] if bad else whole}. "
            "Use letters, digits and _, such as --into mine."
        )
    found = _found(parts[0])
    if parts[0] in sys.stdlib_module_names or (found and found != root / parts[0]):
        raise UsageError(
            f"--into needs a folder with a name of its own, got {folder}: Python would find the "
            f"installed {parts[0]}. Use another, such as --into mine."
        )
    return package


def _source(kind: str) -> Path:
    """The Python file of the skeleton of a kind."""
    return SKELETONS / kind / f"{KINDS[kind].example}.py"


def _imported(source: Path) -> set[str]:
    """The names that a file imports."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name.asname or name.name for node in nodes for name in node.names}


def _found(name: str) -> Path | None:
    """The file of a module, or the folder of a package, that Python finds by this name already."""
    spec = PathFinder.find_spec(name)
    if spec is None or spec.origin is None:  # such as a folder without code
        return None
    return Path(
        spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin
    )
