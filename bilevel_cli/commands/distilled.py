"""The bilevel-distilled command: a distilled set beside real ones of as many bytes."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from bilevel_cli import __version__
from bilevel_cli.commands import leaving
from bilevel_cli.commands.explain import explain
from bilevel_cli.commands.rebuilding import built, option, settings_of
from bilevel_cli.config.refused import check_command_line
from bilevel_cli.errors import NO_SPACE, Unwritten, UsageError, refusal
from bilevel_cli.machine import collecting, streams
from bilevel_cli.records.atomic import replaced
from bilevel_cli.records.folder import check_result
from bilevel_cli.vocabulary import MANIFEST

if TYPE_CHECKING:
    import pandas as pd

    from bilevel_cli.nn.functional import Functional
    from bilevel_cli.tasks.distillation.contest import Contest

OWN = "own"  # the model of the run
SET = "distilled.npz"
COMPARISON, RANKING, PRUNED = "comparison.csv", "ranking.csv", "pruned.csv"
MIXED, AGREEMENT = "mixed.csv", "agreement.csv"
RULES = "lbpe,herding,random,k_centre"

DESCRIPTION = """\
Trains fresh networks on the distilled set of a run and on random, herding's and k-centre's real
images of as many bytes, and writes their test accuracies to comparison.csv in its folder.

  bilevel-distilled outputs/RUN                                  the run's model, an MLP, softmax
  bilevel-distilled outputs/RUN --models own,conv4 --seeds 5     others: bilevel-run model=?
  bilevel-distilled outputs/RUN --retraining augmented --scores  with DD-Ranking, in ranking.csv
  bilevel-distilled outputs/RUN --sizes 1,2,5                    fewer images, in pruned.csv
  bilevel-distilled outputs/RUN --mixed 0,1,10                   with real ones, in mixed.csv
  bilevel-distilled outputs/RUN --agreement                      in agreement.csv
  bilevel-distilled outputs/RUN data.root=/my/data               a setting of the run, changed

Only classes of bilevel_cli are built from the run's manifest.json, and those of --trust PACKAGE.
Exit codes: 0 done; 2 a wrong option, value or file; 3 a table could not be written.
"""


@streams.stands("bilevel-distilled")
def main() -> None:
    """Runs the command. Exit codes as in its description."""
    arguments = _parser().parse_intermixed_args()
    try:
        tables = _tables(arguments)
        for name, table in tables.items():
            with replaced(arguments.run / name) as partial_file:
                table.to_csv(partial_file, index=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # besides its own, Hydra raises all kinds
        print(f"bilevel-distilled: {explain(error)}", file=sys.stderr)
        sys.exit(Unwritten.code if refusal(error, NO_SPACE) else UsageError.code)
    for name, table in tables.items():
        print(table.to_string(index=False, float_format="{:.4f}".format))
        print(f"Wrote {arguments.run / name}")


def _parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="bilevel-distilled",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("run", type=Path, help="folder with distilled.npz and manifest.json")
    add("overrides", nargs="*", metavar="key=value", help="settings of that run")
    add("--models", default=f"{OWN},mlp,linear", help=f"default: {OWN},mlp,linear")
    add("--retraining", default="default", help="bilevel-run task/retraining=?")
    add("--seeds", type=int, help="networks for each set and model")
    add("--steps", type=int, help="training steps of each network")
    add("--sizes", metavar="N,N", help="prune the set to so many images of a class")
    add("--prune", metavar="RULES", help=f"with --sizes; default: {RULES}")
    add("--mixed", metavar="R,R", help="add so many random real images of a class")
    add("--agreement", action="store_true", help="with networks stopped early, of the first model")
    add("--scores", action="store_true", help="DD-Ranking's, of the first model")
    add("--trust", default=[], action="append", help="package of other classes")
    add("--version", action="version", version=f"bilevel-distilled {__version__}")
    return found


def _tables(arguments: argparse.Namespace) -> "dict[str, pd.DataFrame]":
    """The tables to print and to write, by the names of their files."""
    folder: Path = arguments.run
    if not os.access(folder, os.W_OK):
        raise UsageError(f"A comparison needs the folder of a run, writable, got {folder}.")
    for name in (COMPARISON, RANKING, PRUNED, MIXED, AGREEMENT):
        check_result(folder / name)
    check_command_line(arguments.overrides)
    sizes, mixed = (_numbers(arguments, name) for name in ("sizes", "mixed"))
    if arguments.prune and not sizes:
        raise UsageError("--prune needs sizes, got none. Add --sizes 1,2,5, for example.")
    settings = settings_of(folder / MANIFEST, arguments.overrides, arguments.trust)
    retraining = option("task/retraining", arguments.retraining)
    for name, value in {"networks": arguments.seeds, "steps": arguments.steps}.items():
        if value is not None:
            retraining[name] = value
    architectures = {
        name: settings.model if name == OWN else option("model", name)
        for name in arguments.models.split(",")
    }
    names = (arguments.prune or RULES).split(",") if sizes else ()
    pruning = {name: option("task/pruning", name) for name in names}

    with collecting.paused():  # here: --help does not wait for torch
        from bilevel_cli.tasks.distillation.contest import compare, rank
        from bilevel_cli.tasks.distillation.mixing import check_real, mix
        from bilevel_cli.tasks.distillation.pruning import check_sizes, prune
        from bilevel_cli.tasks.distillation.stopped_early import agree

    contest, models = _contest(folder / SET, settings, retraining, architectures)
    jobs = {COMPARISON: partial(compare, contest, models)}
    first = next(iter(models.values()))
    if sizes:
        check_sizes(contest, sizes)
        rules = {name: built("pruning", node) for name, node in pruning.items()}
        jobs[PRUNED] = partial(prune, contest, models, rules, sizes)
    if mixed:
        check_real(contest, mixed)
        jobs[MIXED] = partial(mix, contest, models, mixed)
    if arguments.agreement:
        jobs[AGREEMENT] = partial(agree, contest, first)
    if arguments.scores:
        jobs[RANKING] = partial(rank, contest, first)
    return {name: job() for name, job in jobs.items()}


def _numbers(arguments: argparse.Namespace, name: str) -> list[int]:
    """The whole numbers of an option, such as 1,2,5; none where it is not given."""
    text = getattr(arguments, name) or ""
    try:
        return [int(part) for part in text.split(",") if text]
    except ValueError:
        raise UsageError(
            f"--{name} needs whole numbers with commas between them, such as 1,2,5, got {text!r}."
        ) from None


def _contest(
    path: Path, settings: DictConfig, retraining: DictConfig, architectures: dict[str, DictConfig]
) -> "tuple[Contest, dict[str, Functional]]":
    """What is compared, and the architectures by name."""
    with collecting.paused():
        from bilevel_cli.core.random import DATA, generator
        from bilevel_cli.data.base import Examples
        from bilevel_cli.nn.building import build
        from bilevel_cli.tasks.distillation.contest import prepared
        from bilevel_cli.tasks.distillation.storage import load_npz

    if not path.is_file():  # a FIFO would be waited for
        raise UsageError(f"A comparison needs the file {path}, got none.")
    device = built("device", settings.device).prepare()
    distilled = load_npz(path)
    data = built("data", settings.data)
    if not isinstance(data, Examples):
        raise UsageError(f"A comparison needs labelled examples, got {type(data).__name__}.")
    train, _, test = data.splits(generator(settings.seed, DATA))
    how = built("retraining", retraining)
    contest = prepared(distilled, train, test, how, settings.seed, device)
    shape = tuple(train.x.shape[1:])
    models = {
        name: build(
            *(built("model", node), shape, contest.classes, device),
            *(generator(settings.seed, DATA), contest.train.x),
        )
        for name, node in architectures.items()
    }
    return contest, models


command = leaving.at_once(main)  # of the process of its own

if __name__ == "__main__":
    command()
