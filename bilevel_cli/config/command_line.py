"""What a command line may not say."""

import re
from collections.abc import Iterable

from bilevel_cli.config.arguments import OURS, is_ours
from bilevel_cli.errors import UsageError


def check_command_line(arguments: Iterable[str]) -> None:
    """Refuses arguments that could run any code: a class of others is named by a yaml file.

    So a command line that was copied from somewhere runs nothing but what is installed as an
    option, here or in a folder that --config-dir names.

    Raises:
        UsageError: They do.
    """
    for argument in arguments:
        if control := re.search("_(?:args|convert|partial|recursive)_", argument):
            raise UsageError(f"A command line cannot set {control[0]}, got {argument[:200]!r}.")
        # They make settings of a text, and the name of a resolver can be put together too.
        if re.search(r"oc\.(?:decode|create)|\$\{[^:}]*\$\{", argument):
            raise UsageError(
                "A command line cannot decode a text or put a name together by interpolation, got "
                f"{argument[:200]!r}. Write out the value."
            )
        flag = argument.partition("=")[0]
        if len(flag) > 2 and "--experimental-rerun".startswith(flag):
            raise UsageError(f"{flag} would load a pickle, which could run any code. Leave it out.")
        for assigned in re.findall(r"_target_(.*?)(?=_target_|$)", argument, re.DOTALL):
            named = re.match(r"\s*[=:]\s*['\"]?([\w.]+)", assigned)
            if assigned.strip() and not (named and is_ours(named[1])):
                raise UsageError(
                    f"A command line can name classes of {' and '.join(OURS)} alone, got "
                    f"{argument[:200]!r}. Name others in a yaml file, in a folder that "
                    "--config-dir names."
                )
