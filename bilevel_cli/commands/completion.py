"""Tab completion: what Hydra's does not do."""

import contextlib
import os
import re
from collections.abc import Iterator

from hydra.plugins.completion_plugin import CompletionPlugin

from bilevel_cli.config.command_line import flags_first, separated

# Words are completed by the shell's own means; those of Hydra for zsh are those of bash.
ZSH = """\
_bilevel_run() {
    local -a found
    found=(${(f)"$(COMP_LINE="${(j: :)words[1,CURRENT]}" $words[1] -sc query=fish 2>/dev/null)"})
    compadd -Q -S '' -- $found
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _bilevel_run bilevel-run
"""


def folders() -> list[str]:
    """The flags for folders that the line to be completed names: their options are known too."""
    named = separated(os.environ.get("COMP_LINE", "").split()[1:]).folders
    return [f"--config-dir={folder}" for folder in named if folder.is_dir()]


@contextlib.contextmanager
def after_commas() -> Iterator[None]:
    """Has Hydra complete the last of several options, and see flags wherever they stand."""
    theirs = CompletionPlugin._query

    def query(self: CompletionPlugin, config_name: str | None, line: str) -> list[str]:
        words = line.split()
        last = "" if not words or line.endswith(" ") else words.pop()
        head, comma, part = last.rpartition(",")
        key, equals, _ = head.partition("=")
        if not (comma and equals):
            head, part = "", last
        asked = f"{key}={part}" if head else part
        # A configuration has one option of each group: what follows is completed for the first.
        one_each = (re.sub(r"^([\w/@.]+=[\w.-]+),.*", r"\1", word) for word in flags_first(words))
        whole = " ".join([*one_each, asked])
        found = theirs(self, config_name, whole)
        if not head:
            return found
        chosen = head.removeprefix(f"{key}=").split(",")
        options = (each.removeprefix(f"{key}=") for each in found)
        return [f"{head},{option}" for option in options if option not in chosen]

    CompletionPlugin._query = query  # type: ignore[method-assign]  # Hydra has no hook for it
    try:
        yield
    finally:
        CompletionPlugin._query = theirs  # type: ignore[method-assign]
