"""What a run left, as Python has it."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel_cli.vocabulary import CHECKPOINT

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from bilevel_cli.report.read import runs

WHEN = ("step", "seconds")  # the columns of eval.csv that are no scores


@dataclass(frozen=True, eq=False)
class Run:
    """What a run left in its folder, as `bilevel_cli.run` returns it.

    In a notebook, a `Run` at the end of a cell shows its choices and its last scores.

    Attributes:
        folder: Where its files are.
        status: How it ended: "completed".
        train: The rows of train.csv, one every `log_every` outer steps: the outer loss, the norm of
            the hypergradient, what the method reports, and the costs so far.
        eval: The rows of eval.csv, one an evaluation: `step`, `seconds`, and a column for each
            score of the task.
        scores: The last row of `eval` without `step` and `seconds`.
        settings: The settings of the run, by dotted names such as "solver.lr".
        choices: The option chosen from each group, such as "cg" for "method".
        folders: Those of its replicas, by seed; of one run, its folder.

    Several replicas are one `Run`. Its frames begin with a column `seed`, its scores are the means
    over seeds, and each tensor of `outer` has the replicas, by seed, as its first dimension.
    """

    folder: Path
    status: str
    train: "pd.DataFrame"
    eval: "pd.DataFrame"
    scores: dict[str, float]
    settings: dict[str, Any]
    choices: dict[str, str]
    folders: Sequence[Path]

    @cached_property
    def outer(self) -> "dict[str, Tensor]":
        """The outer parameters after the last step, by name, on the CPU; of any shape.

        Of a run with `average`, they are their average over its steps.

        They are read from the checkpoint when they are first asked for.

        Raises:
            FileNotFoundError: There is no checkpoint any more.
            ValueError: It is damaged.
        """
        import torch

        from bilevel_cli.runs import averaged, checkpoint

        saved = [checkpoint.load(folder / CHECKPOINT) for folder in self.folders]
        found = [one.get(averaged.NAME, one["outer"]) for one in saved]
        if len(found) == 1:
            return dict(found[0])
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}

    def __repr__(self) -> str:
        named = ", ".join(f"{n}={self.choices[n]}" for n in ("task", "method") if n in self.choices)
        scores = ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())
        return f"Run({named}: {self._ended}, {scores or 'no scores'}; {self.folder})"

    def _repr_html_(self) -> str:
        named = " ".join(f"{n}={self.choices[n]}" for n in ("task", "method") if n in self.choices)
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{value:.4g}</td></tr>"
            for name, value in self.scores.items()
        )
        return (
            f"<p><b>{html.escape(named)}</b>: {html.escape(self._ended)}</p>"
            f"<table>{rows}</table><p><code>{html.escape(str(self.folder))}</code></p>"
        )

    @property
    def _ended(self) -> str:
        steps = f" after {self.train['step'].max()} outer steps" if len(self.train) else ""
        several = f" of {len(self.folders)} replicas" if len(self.folders) > 1 else ""
        return f"{self.status}{steps}{several}"


def result(folder: Path, folders: Sequence[Path]) -> Run:
    """The `Run` of a call that has ended.

    Args:
        folder: That of the call.
        folders: Those of its replicas, by seed; of one run, its folder.
    """
    import pandas as pd

    from bilevel_cli.report.read import runs

    found = [runs.read_one(one, one.name) for one in folders]
    tables = []
    for name in ("train", "evals"):
        parts = [whole_steps(getattr(one, name)) for one in found]
        if len(found) > 1:
            parts = [
                part.assign(seed=one.seed)[["seed", *part]]
                for one, part in zip(found, parts, strict=True)
            ]
        tables.append(pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0])
    train, evals = tables
    scores = pd.DataFrame([last_scores(one) for one in found]).mean()
    first = found[0]
    several = {"replicas": len(found)} if len(found) > 1 else {}
    return Run(
        folder=folder,
        status=first.status,
        train=train,
        eval=evals,
        scores={str(name): float(value) for name, value in scores.items()},
        settings={**first.settings, **several},
        choices=first.choices,
        folders=list(folders),
    )


def last_scores(run: "runs.Run") -> dict[str, float]:
    """The scores of the last evaluation; none before the first."""
    if not len(run.evals):
        return {}
    last = run.evals.iloc[-1].to_dict()
    return {str(name): float(value) for name, value in last.items() if name not in WHEN}


def whole_steps(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table with its outer steps as whole numbers; a copy."""
    return table.astype({"step": int}) if "step" in table else table.copy()
