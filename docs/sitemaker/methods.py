"""A page for each method."""

from collections.abc import Iterator

from bilevel_cli.core.claim import Claim
from sitemaker import links, markdown, measured, probes, yamls
from sitemaker.markdown import code, docstring, escaped, page, prose, section, sentence, table
from sitemaker.source import home

HELD = {
    "value": "One estimate equals it, to a relative error of {tolerance}.",
    "mean": "The mean of {repeats} estimates equals it: no entry is off by more than {tolerance} "
    "standard errors.",
    "limit": "Estimates that are repeated at fixed outer parameters tend to it, to a relative "
    "error of {tolerance}.",
    "rate": "The estimate misses it by a bias. At another setting the bias must be {low:g} to "
    "{high:g} times as large.",
}


def pages() -> Iterator[tuple[str, str]]:
    """Names of files with their contents."""
    names = list(probes.methods())
    rows = [[f"[`{name}`]({name}.md)", _line(name), *_costs(name)] for name in names]
    yield (
        "methods/index",
        page(
            "Methods",
            "A method estimates the hypergradient, the derivative of the outer loss by the outer "
            "parameters. The costs are those of one estimate with K inner steps, on a problem "
            f"with {probes.INNER} inner and {probes.OUTER} outer parameters: gradients of the "
            "inner loss, and products with its second derivatives. `bilevel-run method=?` lists "
            "the methods as well.",
            table(["method", "what it does", "gradients", "products"], rows),
            "[What `bilevel-check` measured for each of them](checked.md).",
            markdown.contents(["checked", *names]),
        ),
    )
    yield "methods/checked", _checked()
    for name in names:
        yield f"methods/{name}", _page(name)


def _page(name: str) -> str:
    method = probes.methods()[name]
    kind = type(method.made)
    text = docstring(kind)
    served = [task for task, posed in probes.tasks().items() if name not in posed.refusals]
    papers = [f"[arXiv:{paper}](https://arxiv.org/abs/{paper})" for paper in _papers(kind)]
    brings = [f"`{group}={option}`" for group, option in yamls.brings("method", name).items()]
    facts = [
        ["class", f"`{kind.__name__}` in {home(kind)}"],
        ["papers", ", ".join(papers)],
        ["brings along", ", ".join(brings)],
        [
            "between outer steps",
            "it remembers more than z" if method.made.remembers else "it remembers z alone",
        ],
    ]
    example = "reweight" if "reweight" in served else served[0]
    label = f"({links.label('method', name)})="
    return f"{label}\n" + page(
        name,
        _line(name),
        code(f"bilevel-run task={example} method={name}\nbilevel-check method={name}"),
        table(["", ""], [row for row in facts if row[1]]),
        section("What it computes", prose(text.body)),
        section("What it claims", _claim(method.claim)),
        section("What it refuses", *_refused(name)),
        section("What it costs", *_cost(name)),
        section("What was measured", *_measured(name)),
        section("Settings", yamls.table(_settings(name))),
        section("Tasks it serves", *_tasks(name, served)),
    )


def _line(name: str) -> str:
    return sentence(yamls.first_comment("method", name))


def _papers(kind: type) -> list[str]:
    return markdown.papers(docstring(kind).body)


def _claim(claim: Claim) -> str:
    most = claim.tolerance if not callable(claim.tolerance) else None
    tolerance = "what theory allows for the problem" if most is None else f"{most:g}"
    low, high = claim.ratio
    held = HELD[claim.kind].format(tolerance=tolerance, repeats=claim.repeats, low=low, high=high)
    return f"The estimate is said to be: `{claim.text}`. {held} `bilevel-check` holds it to that."


def _refused(name: str) -> Iterator[str]:
    """What it asks of the problem, as the requirements say themselves."""
    requires = probes.methods()[name].made.requires
    lines = [docstring(one).body.partition("\n\n")[0].removeprefix("Refuses ") for one in requires]
    if lines:
        yield "Before any work it refuses"
        yield "\n".join(f"- {escaped(' '.join(line.split()))}" for line in lines)


def _cost(name: str) -> Iterator[str]:
    counts = probes.cost(name)
    if not counts:
        yield "What an estimate costs depends on what it meets on its way: `train.csv` counts it."
        return
    yield (
        f"One estimate, with {probes.INNER} inner and {probes.OUTER} outer parameters, before it "
        "reports anything of its own:"
    )
    rows = [list(map(str, count)) for count in counts]
    rows += [["K", *_costs(name)]] if all(_costs(name)) else []
    yield table(["inner steps", "gradients of the inner loss", "second-order products"], rows)


def _costs(name: str) -> list[str]:
    counts = probes.cost(name)
    if not counts:
        return ["counted as it runs"] * 2
    return [probes.formula([float(count[i]) for count in counts]) for i in (1, 2)]


def _measured(name: str) -> Iterator[str]:
    if row := measured.row("checked", name, "problem"):
        yield (
            "By `bilevel-check` on three problems: relative errors, standard errors of a mean "
            "(z), or the ratio of the errors at two settings; and the cost of one estimate on "
            "the quadratic."
        )
        yield row
    if row := measured.row("budget", name, "column"):
        yield (
            "At 15 000 inner gradients on `task=reweight`, at the step sizes that the task "
            "suggests to all methods: [the whole table](../../../methods.md)."
        )
        yield row
    if row := measured.row("solvers", name, "solver", "solver"):
        yield "By `bilevel-check`, with each inner solver:"
        yield row
        reasons = measured.reasons("solvers", row)
        yield "\n".join(f"- ({letter}) {escaped(reason)}" for letter, reason in reasons)


def _settings(name: str) -> list[yamls.Setting]:
    return [*yamls.settings("method", name), *yamls.within("method", name)]


def _tasks(name: str, served: list[str]) -> Iterator[str]:
    yield ", ".join(f"[`{task}`](../tasks/{task}.md)" for task in served)
    rows = [
        [f"[`{task}`](../tasks/{task}.md)", escaped(posed.refusals[name])]
        for task, posed in probes.tasks().items()
        if name in posed.refusals
    ]
    if rows:
        yield "At their defaults these refuse:"
        yield table(["task", "reason"], rows)


def _checked() -> str:
    return page(
        "Is the hypergradient right?",
        "Each method says what its estimate is, and `bilevel-check` holds it to that. Small "
        "numbers are relative errors; z is in standard errors of a mean; a ratio is that of the "
        "errors at two settings. Gradients and products are those of one estimate on the "
        "quadratic. `make docs` measures it anew.",
        measured.whole("checked", "[`{0}`]({0}.md)"),
    )
