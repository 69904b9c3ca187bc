"""All settings on one page, with their comments."""

from bilevel_cli.config import options
from sitemaker import markdown, yamls
from sitemaker.markdown import page, section
from sitemaker.shelves import groups


def text() -> str:
    """The contents of the page."""
    kinds = ["task", "method", *groups()]
    return page(
        "All settings",
        "Any of them goes onto the command line, as in `bilevel-run task=meta outer_steps=50 "
        "solver.lr=0.1`. A default such as `${suggest.inner_lr}` is what the task suggests. "
        "`bilevel-run ... --cfg job --resolve` shows the values that a run would take.",
        section("Of every run", yamls.table(yamls.top_level())),
        *(_section(group) for group in kinds if group != "experiment"),
    )


def _section(group: str) -> str:
    rows = [
        [_link(group, option), f"`{row.name}`", f"`{row.default}`", yamls.explained(row)]
        for option in options.names(group)
        for row in yamls.settings(group, option)
    ]
    if not rows:
        return ""
    return section(group, markdown.table(["option", "setting", "default", "meaning"], rows))


def _link(group: str, option: str) -> str:
    return f"`{group}={option}`"
