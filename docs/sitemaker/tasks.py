"""A page for each task."""

from collections.abc import Iterator

from bilevel_cli.config import options
from sitemaker import links, markdown, probes, yamls
from sitemaker.markdown import code, docstring, escaped, page, prose, section, sentence, table
from sitemaker.source import home


def pages() -> Iterator[tuple[str, str]]:
    """Names of files with their contents."""
    found = probes.tasks()
    rows = [
        [f"[`{name}`]({name}.md)", _line(name), f"`{posed.scores[0]}`"]
        for name, posed in found.items()
    ]
    yield (
        "tasks/index",
        page(
            "Tasks",
            "A task is a bilevel problem with its data and its scores. `bilevel-run task=?` lists "
            "the tasks as well, with the data that each of them takes.",
            table(["task", "what it is", "first score"], rows),
            markdown.contents(found),
        ),
    )
    for name in found:
        yield f"tasks/{name}", _page(name)


def _page(name: str) -> str:
    posed = probes.tasks()[name]
    kind = yamls.target("task", name)
    method = posed.choices["method"]
    brings = yamls.brings("task", name)
    facts = [
        ["class", f"`{kind.__name__}` in {home(kind)}"],
        ["papers", ", ".join(f"[arXiv:{p}](https://arxiv.org/abs/{p})" for p in _papers(kind))],
        ["data", _data(name)],
        ["unless you choose another", _defaults(posed.choices)],
        ["parts to choose", ", ".join(f"`{place}={option}`" for place, option in brings.items()
                                      if place.startswith("task/") and option != "null")],
    ]  # fmt: skip
    return f"({links.label('task', name)})=\n" + page(
        name,
        _line(name),
        code(f"bilevel-run task={name} method={method}"),
        table(["", ""], [row for row in facts if row[1]]),
        section("The problem", prose(docstring(kind).body)),
        section(
            "Scores",
            "The columns of `eval.csv` besides `step` and `seconds`, the most telling one first:",
            ", ".join(f"`{score}`" for score in posed.scores),
        ),
        section("Settings", yamls.table(_settings(name))),
        section("Methods", *_methods(name)),
    )


def _line(name: str) -> str:
    return sentence(yamls.first_comment("task", name))


def _papers(kind: type) -> list[str]:
    return markdown.papers(docstring(kind).body)


def _data(name: str) -> str:
    fitting = options.pairs()[name]
    return ", ".join(f"`data={option}`" for option in fitting) or "it brings its own"


def _defaults(choices: dict[str, object]) -> str:
    groups = ("data", "model", "solver", "start", "method", "optimizer")
    return ", ".join(f"`{group}={choices[group]}`" for group in groups if choices.get(group))


def _settings(name: str) -> list[yamls.Setting]:
    return [*yamls.settings("task", name), *yamls.within("task", name)]


def _methods(name: str) -> Iterator[str]:
    refusals = probes.tasks()[name].refusals
    serving = [method for method in probes.methods() if method not in refusals]
    if not refusals:
        yield "All methods serve it, at its defaults."
        return
    yield f"At its defaults {len(serving)} methods serve it: {_linked(serving)}."
    alike: dict[str, list[str]] = {}  # methods by what they need, which follows who needs it
    for method, reason in refusals.items():
        alike.setdefault(reason.partition(" needs ")[2] or reason, []).append(method)
    yield "The others refuse it before any work:"
    rows = [[_linked(names), escaped(f"needs {reason}")] for reason, names in alike.items()]
    yield table(["method", "reason"], rows)


def _linked(names: list[str]) -> str:
    return ", ".join(f"[`{name}`](../methods/{name}.md)" for name in names)
