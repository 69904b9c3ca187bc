"""The message that proposes the settings by which a table can be read."""

from collections.abc import Iterator

from bilevel_cli.data.table.dialect import Dialect
from bilevel_cli.data.table.name import Name
from bilevel_cli.data.table.proposals import Choice, Proposal

LONGEST = 400  # letters of a message


def refusal(name: Name, dialect: Dialect, findings: list[str], proposal: Proposal) -> ValueError:
    """The error of a table that another dialect reads.

    Args:
        name: Of the table.
        dialect: The one that was asked for.
        findings: About the layout of the file.
        proposal: What would read it.
    """
    doubtful = {
        setting
        for choice in proposal.choices
        for settings, _ in choice.meanings
        for setting in settings
    }
    changed = [
        setting
        for setting in vars(dialect)
        if getattr(proposal.dialect, setting) != getattr(dialect, setting)
        and setting not in doubtful
    ]
    adding = " ".join(name.spell(one, getattr(proposal.dialect, one)) for one in changed)
    titles = [*proposal.looks, *proposal.faults, *(choice.title for choice in proposal.choices)]
    texts = name.spell("text", (*dialect.text, *dict.fromkeys(titles)))
    keep = f"{texts} keeps texts. " * bool(titles)
    if proposal.choices:
        way_out = f"{keep}Add one of these{' and ' * bool(adding)}{adding}"
    elif adding:
        way_out = f"{keep}Add {adding}"
    else:
        way_out, keep = f"Correct the file, or add {texts}", ""
    choices = [_meanings(choice, name) for choice in proposal.choices]
    start = f"{name.who} cannot read {name.path} as it is: "
    for most in (3, 1, 0):
        faults = list(proposal.faults.values())
        some = [*faults[:most], f"{len(faults) - most} columns more are of several kinds"]
        faults = some if len(faults) > most + 1 else faults
        phrases = [*findings, *_looks(proposal, most), *faults, *choices]
        message = f"{start}{'; '.join(phrases)}. {way_out}"
        if len(message) > LONGEST:
            way_out = way_out.removeprefix(keep)
            message = f"{start}{'; '.join(phrases)}. {way_out}"
        if len(message) <= LONGEST:
            break
    return ValueError(message)


def _meanings(choice: Choice, name: Name) -> str:
    each = (
        f"{meaning} with {' '.join(name.spell(*setting) for setting in settings.items())}"
        for settings, meaning in choice.meanings
    )
    return f"{choice.word!r} in {choice.title!r} is {' or '.join(each)}"


def _looks(proposal: Proposal, titles: int) -> Iterator[str]:
    """What columns look like, in phrases that name `titles` of them; with 0, in few words."""
    if not titles and proposal.looks:
        names, others = list(map(repr, proposal.looks))[:2], len(proposal.looks) - 2
        also = f" and {others} more" * (others > 0)
        yield f"columns {', '.join(names)}{also} look like numbers or dates"
        return
    groups: dict[str, list[str]] = {}
    for title, looks in proposal.looks.items():
        groups.setdefault(looks, []).append(title)
    for looks, columns in groups.items():
        some = ", ".join(map(repr, columns[:titles]))
        more = f" and {len(columns) - titles} more" if len(columns) > titles else ""
        many = len(columns) > 1
        yield f"column{'s' * many} {some}{more} look{'s' * (not many)} like {looks}"
