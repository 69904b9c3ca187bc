"""The bilevel-check command: every method's hypergradient against what it says it is."""

import argparse
import csv
import itertools
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from omegaconf import DictConfig
from tqdm import tqdm

from bilevel_cli import __version__
from bilevel_cli.commands import leaving
from bilevel_cli.commands.explain import explain
from bilevel_cli.config import options
from bilevel_cli.config.options import CONF
from bilevel_cli.config.own_code import look_beside
from bilevel_cli.config.refused import check_command_line, check_composed
from bilevel_cli.config.resolved import check_resolves
from bilevel_cli.config.unread import check_read
from bilevel_cli.core import counting
from bilevel_cli.errors import NO_SPACE, Unwritten, UsageError, refusal
from bilevel_cli.machine import collecting, streams
from bilevel_cli.records.folder import check_output

if TYPE_CHECKING:
    from bilevel_cli.checks.verdict import Finding

# What is checked unless the command line says otherwise: a small task in closed form, in float64.
DEFAULTS = {"task": "quadratic", "method": "glob(*)", "device": "cpu", "device.dtype": "float64"}

# The parts of a configuration that a check reads.
READ = ("device", "data", "model", "task", "solver", "start", "method", "inner_steps", "seed")

EVERY, REFRESH = 10.0, 0.2  # seconds between two lines, and between two sights in a bar

NOT_HELD = ("WRONG", "unsettled", "failed")

DESCRIPTION = """\
Holds each method to what it claims to estimate: closed forms and central differences in float64,
the mean over many draws for random methods, the documented rate for biased ones.

  bilevel-check                                            every method, on a quadratic
  bilevel-check method=cg,neumann task=ridge               some, on ridge regression
  bilevel-check method=iaptt task=reweight data=digits     one, on a task of yours
  bilevel-check --config-dir my/conf method=mine           your own

A check where central differences of two step sizes disagree is "chaotic": a long inner loop at too
large a step, or a kink. It proves nothing, and is no error.

Exit codes: 0 all hold, refuse or have no reference; 1 one is outside its tolerance; 2 a wrong
option or value; 3 the table could not be written.
"""


@streams.stands("bilevel-check")
def main() -> None:
    """Runs the command. Exit codes as in its description."""
    parser = argparse.ArgumentParser(
        prog="bilevel-check",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for bilevel-run")
    parser.add_argument("--config-dir", help="a folder of your own options, besides conf/")
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--version", action="version", version=f"bilevel-check {__version__}")
    arguments = parser.parse_intermixed_args()
    try:
        if arguments.csv and not arguments.csv.absolute().parent.is_dir():
            raise UsageError(f"--csv needs a file in a folder that is there, got {arguments.csv}.")
        if arguments.csv:
            check_output(arguments.csv, "--csv")
        found = rows(arguments.overrides, arguments.config_dir)
        print(_markdown(found) if arguments.markdown else _text(found))
        if arguments.csv:
            _write(arguments.csv, found)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # besides its own, Hydra raises all kinds
        print(f"bilevel-check: {explain(error)}", file=sys.stderr)
        sys.exit(Unwritten.code if refusal(error, NO_SPACE) else UsageError.code)
    wrong = [name for name, finding in found if finding.verdict in NOT_HELD]
    if wrong:
        print(f"bilevel-check: outside of its tolerance: {', '.join(wrong)}", file=sys.stderr)
        sys.exit(1)


def rows(overrides: list[str], config_dir: str | None) -> "list[tuple[str, Finding]]":
    """What the checks found that a command line asks for, each with the name of its row.

    Args:
        overrides: As on the command line: "method=cg,neumann", "task=ridge".
        config_dir: A folder of options besides conf/.

    Raises:
        UsageError: An option or a setting is wrong; Hydra raises errors of its own, too.
    """
    check_command_line(overrides)
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    first = [f"{key}={value}" for key, value in DEFAULTS.items() if key not in given]
    folders = [Path(config_dir).resolve()] if config_dir else []
    if not all(folder.is_dir() for folder in folders):
        raise UsageError(f"--config-dir needs a folder, got {config_dir}.")
    look_beside(folders)
    search = [f"hydra.searchpath=[file://{folder}]" for folder in folders]
    choices = _expanded([*first, *overrides], folders)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = [
            (choice, hydra.compose("config", [*search, *choice], return_hydra_config=True))
            for choice in choices
        ]
        found = []
        with tqdm(composed, unit="check", leave=False, disable=None) as bar:
            for choice, config in bar:
                name = _name(choice, choices)
                with counting.told(_Told(bar, name)):
                    found.append((name, _checked(config)))
        return found


class _Told:
    """Shows how far a long check is: in the bar, or a line a while where there is no terminal.

    Args:
        bar: The bar of all checks.
        name: Of this check.
    """

    def __init__(self, bar: Any, name: str) -> None:
        self.bar, self.name = bar, name
        self.last = time.monotonic()

    def __call__(self, number: int, count: int) -> None:
        now = time.monotonic()
        if now - self.last < (EVERY if self.bar.disable else REFRESH):
            return
        self.last, text = now, f"{self.name}, part {number} of {count}"
        if self.bar.disable:
            print(f"bilevel-check: {text}", file=sys.stderr, flush=True)
        else:
            self.bar.set_postfix_str(text)


def _expanded(overrides: list[str], folders: list[Path]) -> list[list[str]]:
    """One list of overrides for each combination of the values that they sweep over."""
    values = []
    for one in OverridesParser.create().parse_overrides(overrides):
        swept, key = one.value(), one.get_key_element()
        found: Iterable[str] = []
        if isinstance(swept, Glob):
            found = swept.filter(options.names(key, folders))
            if not found:
                raise UsageError(f"{key} has no option that matches {one.get_value_string()}.")
        elif one.is_sweep_override():
            found = one.sweep_string_iterator()
        values.append([f"{key}={value}" for value in found] or [one.input_line or ""])
    return [list(choice) for choice in itertools.product(*values)]


def _name(choice: list[str], choices: list[list[str]]) -> str:
    """The values of the overrides in which the checks differ; the method's where there is one."""
    differing = [
        value for value, *others in zip(choice, *choices, strict=True) if len(set(others)) > 1
    ]
    shown = differing or [value for value in choice if value.startswith("method=")]
    return " ".join(value.removeprefix("method=") for value in shown)


def _checked(config: DictConfig) -> "Finding":
    with collecting.paused():  # here: --help does not wait for torch
        from bilevel_cli.checks import verdict
        from bilevel_cli.config.objects import parts

    chosen = dict(config.hydra.runtime.choices)
    check_resolves(config, chosen, READ)
    check_composed(config)
    check_read(config)
    try:
        _, _, task, loop, method = parts(config, chosen)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return verdict.check(method, loop, task, config.inner_steps, config.seed)


COLUMNS = ("method", "claim", "measured", "allowed", "to exact", "grads", "products", "verdict")


def _cells(name: str, finding: "Finding") -> tuple[str, ...]:
    exact = "-"
    if math.isfinite(finding.exact_error):
        exact = f"{finding.exact_error:.1e}, cos {finding.exact_cosine:.3f}"
    counts = [
        "-" if math.isnan(count) else f"{count:g}" for count in (finding.inner_grads, finding.hvps)
    ]
    return (
        name,
        finding.claim,
        finding.measured or "-",
        finding.allowed or "-",
        exact,
        *counts,
        finding.verdict,
    )


def _text(rows: "list[tuple[str, Finding]]") -> str:
    table = [COLUMNS, *(_cells(name, finding) for name, finding in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table
    ]
    reasons = [f"{name}: {finding.reason}" for name, finding in rows if finding.reason]
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def _markdown(rows: "list[tuple[str, Finding]]") -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(name, finding) for name, finding in rows)]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)


def _write(path: Path, rows: "list[tuple[str, Finding]]") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", *rows[0][1]._fields])
        writer.writerows([name, *finding] for name, finding in rows)


command = leaving.at_once(main)  # of the process of its own

if __name__ == "__main__":
    command()
