"""What bilevel-run says about itself, as wide as the terminal."""

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from bilevel_cli.config import options
from bilevel_cli.config.settings_help import settings
from bilevel_cli.errors import hint

_EXAMPLES = """\
Examples:
  bilevel-run task=reweight                        down-weight wrong labels
  bilevel-run task=meta method=iaptt               few-shot classification
  bilevel-run -m task=quadratic method=cg,reverse  a sweep: one run each
"""

USAGE = f"""\
Usage: bilevel-run task=TASK [method=METHOD] [group=option] [key=value] ...

{_EXAMPLES}
  bilevel-run task=?       the tasks; likewise method=?, data=?, ...
  bilevel-run task=meta?   the settings of a task
  bilevel-run --help       all groups, options and flags
"""

_FLAGS = """\
  task=?                   the options of a group, a line each
  solver=gd?               the settings of an option, with defaults
  --cfg job                print the whole configuration; runs nothing
  -m, --multirun           a sweep: -m seed=0,1,2 method=cg,reverse
  -cd, --config-dir DIR    options of your own, in DIR/method/x.yaml
  hydra.run.dir=FOLDER     where a run writes; the same command continues it
  --hydra-help             Hydra's own flags

Tab completion:
  bash   eval "$(bilevel-run -sc install=bash)"
  zsh    eval "$(bilevel-run -sc install=zsh)"
  fish   bilevel-run -sc install=fish | source
"""


def helped(folders: Sequence[Path]) -> str:
    """The text of --help.

    Args:
        folders: Where to look for options besides conf/: what --config-dir names.
    """
    lines = [
        "bilevel-run runs one experiment of bilevel optimization, or a sweep of them.\n",
        "Usage: bilevel-run task=TASK [method=METHOD] [group=option] [key=value] ...\n",
        _EXAMPLES,
        "Groups and their options:\n",
    ]
    for group in options.groups():
        names = ", ".join(options.names(group, folders))
        lines += [f"  {group}", *_wrapped(names, "      ")]
    return "\n".join([*lines, "", "Questions and flags:\n", _FLAGS])


def described(group: str, option: str, folders: Sequence[Path]) -> str:
    """The settings of an option, each with its default and what it is for.

    Args:
        group: Such as "task" or "method/linear_solver".
        option: Such as "meta".
        folders: Where to look besides conf/: what --config-dir names.
    """
    if group not in options.groups() and not options.names(group, folders):
        return f"There is no group {group!r}{hint(group, options.groups())}"
    path = options.path(group, option, folders)
    if path is None:
        known = options.names(group, folders)
        said = f"{group} has no option {option!r}{hint(option, known)}"
        return "\n".join([said, *_wrapped(f"{group} is one of {', '.join(known)}.", "")])
    lines = _wrapped(f"{group}={option}: {options.first_comment(path)}", "")
    for one in settings(group, option, folders):
        lines += ["", *_wrapped(f"{one.key}={one.default}", "  "), *_wrapped(one.comment, "      ")]
    return "\n".join(lines if len(lines) > 1 else [*lines, "It has no settings."])


def _wrapped(text: str, indent: str) -> list[str]:
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
