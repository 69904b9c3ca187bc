"""What a run doubts of its own numbers, and how it says so: once for each kind."""

import logging
from collections.abc import Callable, Mapping

from bilevel_cli.records.manifest import Doubt

log = logging.getLogger(__name__)

INNER_LOSS, HYPERGRADIENT, PRECISION = "inner_loss", "hypergradient", "precision"
OF_ALL = {INNER_LOSS, HYPERGRADIENT, PRECISION}  # kinds that a run of any method may show
MOST_NAMES = 20  # that a sentence lists


class Doubts:
    """The doubts of a run, the first of each kind.

    Attributes:
        found: By kind: "inner_loss", "hypergradient", "precision", and those that a method knows.
        unsaid: Kinds that nobody was told of yet.
        told: Is given all of them when there is a new one.
    """

    def __init__(self) -> None:
        self.found: dict[str, Doubt] = {}
        self.unsaid: list[str] = []
        self.told: Callable[[dict[str, Doubt]], None] = lambda doubts: None

    def note(self, step: int, sentences: Mapping[str, str]) -> None:
        """Keeps what is new.

        Args:
            step: The outer step.
            sentences: By kind.
        """
        new = {kind: sentence for kind, sentence in sentences.items() if kind not in self.found}
        self.found |= {kind: {"step": step, "sentence": text} for kind, text in new.items()}
        self.unsaid += new
        if new:
            self.told(self.found)

    def of_method(self) -> str:
        """What the method said, such as why a linear system was not solved and what to do."""
        return " ".join(one["sentence"] for kind, one in self.found.items() if kind not in OF_ALL)

    def restore(self, saved: dict[str, Doubt]) -> None:
        """Adds what a checkpoint knows, which was said when it was found."""
        for kind, doubt in saved.items():
            self.found.setdefault(kind, doubt)


class Voice:
    """Says in the log what runs doubt that take their outer steps together, each kind once.

    Args:
        quiet: Says nothing, as processes do that leave this to the first one.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._said: set[str] = set()
        self._later: dict[str, list[str]] = {}

    def say(self, runs: Mapping[str, Doubts]) -> None:
        """Says what is new, by which runs; of a kind that another one has shown, at the end.

        Args:
            runs: The doubts of all runs, by the names of the runs.
        """
        new: dict[str, list[str]] = {}
        for name, doubts in runs.items():
            for kind in doubts.unsaid:
                new.setdefault(kind, []).append(name)
            doubts.unsaid.clear()
        for kind, names in new.items():
            if kind in self._said:
                self._later.setdefault(kind, []).extend(names)
                continue
            self._said.add(kind)
            doubt = runs[names[0]].found[kind]
            whose = f"{_named(names)} of {len(runs)} replicas, at" if len(runs) > 1 else "At"
            self._log(f"{whose} step {doubt['step']}: {doubt['sentence']}")

    def end(self) -> None:
        """Says which other runs came to doubt the same."""
        for kind, names in self._later.items():
            self._log(f"Later the same ({kind}) in {_named(names)}.")

    def _log(self, line: str) -> None:
        if not self._quiet:
            log.warning("%s", line)


def zero_hypergradient(names: list[str], steps: int) -> dict[str, str]:
    """A sentence of the kind `hypergradient`, where that of some outer parameters is all zero.

    Args:
        names: Of the outer parameters; none, and there is no doubt.
        steps: Outer steps in which all entries were exactly zero.
    """
    if not names:
        return {}
    since = "at the first step" if steps == 1 else f"in the first {steps} steps"
    return {
        HYPERGRADIENT: f"The hypergradient of {_named(names)} is exactly zero {since}: F and f do "
        "not depend on it along this method's path (a .detach(), .item(), torch.no_grad or a "
        "rounding function in an own loss?), so it is not learned. Let the losses keep its graph, "
        "or use a method that sees how it acts, such as method=reverse, or method=es, which takes "
        "no derivative."
    }


def _named(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    shown = [*names[:MOST_NAMES], *([f"{more} others"] if more > 0 else [])]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
