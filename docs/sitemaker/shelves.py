"""A page for each group of conf/ but methods and tasks, with a section for each option."""

from collections.abc import Iterator

from bilevel_cli.config import options
from sitemaker import links, markdown, yamls
from sitemaker.markdown import code, docstring, page, prose, section, sentence, table
from sitemaker.source import home

PAGES_OF_THEIR_OWN = ("method", "task")


def groups() -> list[str]:
    """Those with a page here: outer groups first."""
    found = [group for group in options.groups() if group not in PAGES_OF_THEIR_OWN]
    return sorted(found, key=lambda group: ("/" in group, group))


def pages() -> Iterator[tuple[str, str]]:
    """Names of files with their contents."""
    names = {group: group.replace("/", "-") for group in groups()}
    rows = [
        [f"[`{group}`]({name}.md)", ", ".join(f"`{option}`" for option in options.names(group))]
        for group, name in names.items()
        if group != "experiment"
    ]
    yield (
        "options/index",
        page(
            "Solvers, starts, models, data and the rest",
            "Each group of options on a page. `solver=adam` on the command line chooses an option, "
            "`solver.lr=0.01` one of its settings, and `bilevel-run solver=?` lists the group. "
            "[Experiments](experiment.md) are whole command lines with a name.",
            table(["group", "options"], rows),
            markdown.contents(names.values()),
        ),
    )
    for group, name in names.items():
        sections = [_section(group, option) for option in options.names(group)]
        yield (
            f"options/{name}",
            page(
                group,
                f"`{_choice(group)}` on the command line of `bilevel-run` chooses an option.",
                *sections,
            ),
        )


def _choice(group: str) -> str:
    first = options.names(group)[0]
    return f"{group}=[{first}]" if yamls.is_list(group) else f"{group}={first}"


def _section(group: str, option: str) -> str:
    line = sentence(yamls.first_comment(group, option))
    label = f"({links.label(group, option)})="
    if group == "experiment":
        path = yamls.files(group, option)[-1]
        text = path.read_text(encoding="utf-8").strip()
        run = code(f"bilevel-run experiment={option}")
        return f"{label}\n" + section(option, line, run, code(text, "yaml"))
    kind = yamls.target(group, option)
    ours = kind is not None and kind.__module__.startswith("bilevel_cli")
    brings = yamls.brings(group, option)
    return f"{label}\n" + section(
        option,
        line,
        "" if kind is None else f"`{kind.__qualname__}` in {home(kind)}.",
        prose(docstring(kind).body) if ours else "",
        "Brings along " + ", ".join(f"`{g}={o}`" for g, o in brings.items()) + "."
        if brings
        else "",
        yamls.table(yamls.settings(group, option)),
    )
