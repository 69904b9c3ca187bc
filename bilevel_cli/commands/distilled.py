"""The bilevel-distilled command: a distilled set beside real ones of its size."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from bilevel_cli import __version__, errors
from bilevel_cli.commands import leaving
from bilevel_cli.commands.explain import explain
from bilevel_cli.config import options
from bilevel_cli.config.options import CONF
from bilevel_cli.config.refused import check_command_line
from bilevel_cli.config.targets import TARGET, home, is_ours, on_a_shelf, target, targeted
from bilevel_cli.errors import NO_SPACE, Unwritten, UsageError, refusal
from bilevel_cli.machine import collecting, streams
from bilevel_cli.records.atomic import replaced
from bilevel_cli.records.folder import check_result
from bilevel_cli.report.read.bounded import Unread, json_tree
from bilevel_cli.vocabulary import MANIFEST

if TYPE_CHECKING:
    import pandas as pd

OWN = "own"  # the model of the run
COMPARISON, RANKING = "comparison.csv", "ranking.csv"
NEEDED = ("data", "model", "device", "seed")  # of its settings

DESCRIPTION = """\
Trains fresh networks on the distilled set of a run and on random, herding's and k-centre's real
images of the same number, and writes their test accuracies to comparison.csv in its folder.

  bilevel-distilled outputs/RUN                                  the run's model, an MLP, softmax
  bilevel-distilled outputs/RUN --models own,conv4 --seeds 5     others: bilevel-run model=?
  bilevel-distilled outputs/RUN --retraining augmented --scores  with DD-Ranking, in ranking.csv
  bilevel-distilled outputs/RUN data.root=/my/data               a setting of the run, changed

Only classes of bilevel_cli are built from the run's manifest.json, and those of --trust PACKAGE.
Exit codes: 0 done; 2 a wrong option, value or file; 3 a table could not be written.
"""


@streams.stands("bilevel-distilled")
def main() -> None:
    """Runs the command. Exit codes as in its description."""
    parser = argparse.ArgumentParser(
        prog="bilevel-distilled",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder with distilled.npz and manifest.json")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of that run")
    parser.add_argument("--models", default=f"{OWN},mlp,linear", help=f"default: {OWN},mlp,linear")
    parser.add_argument("--retraining", default="default", help="bilevel-run task/retraining=?")
    parser.add_argument("--seeds", type=int, help="networks for each set and model")
    parser.add_argument("--steps", type=int, help="training steps of each network")
    parser.add_argument("--scores", action="store_true", help="DD-Ranking's, of the first model")
    parser.add_argument("--trust", default=[], action="append", help="package of other classes")
    parser.add_argument("--version", action="version", version=f"bilevel-distilled {__version__}")
    arguments = parser.parse_intermixed_args()
    try:
        tables = _tables(arguments)
        for name, table in tables.items():
            with replaced(arguments.run / name) as partial:
                table.to_csv(partial, index=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # besides its own, Hydra raises all kinds
        print(f"bilevel-distilled: {explain(error)}", file=sys.stderr)
        sys.exit(Unwritten.code if refusal(error, NO_SPACE) else UsageError.code)
    for name, table in tables.items():
        print(table.to_string(index=False, float_format="{:.4f}".format))
        print(f"Wrote {arguments.run / name}")


def _tables(arguments: argparse.Namespace) -> "dict[str, pd.DataFrame]":
    """The tables to print and to write, by the names of their files."""
    folder: Path = arguments.run
    if not os.access(folder, os.W_OK):
        raise UsageError(f"A comparison needs the folder of a run, writable, got {folder}.")
    for name in (COMPARISON, RANKING):
        check_result(folder / name)
    check_command_line(arguments.overrides)
    settings = _settings(folder / MANIFEST, arguments.overrides, arguments.trust)
    retraining = _option("task/retraining", arguments.retraining)
    for name, value in {"networks": arguments.seeds, "steps": arguments.steps}.items():
        if value is not None:
            retraining[name] = value
    architectures = {
        name: settings.model if name == OWN else _option("model", name)
        for name in arguments.models.split(",")
    }

    # Here, as in `_built`: --help does not wait for torch.
    with collecting.paused():
        from bilevel_cli.core.random import DATA, generator
        from bilevel_cli.data.base import Examples
        from bilevel_cli.nn.building import build
        from bilevel_cli.tasks.distillation.contest import compare, prepared, rank
        from bilevel_cli.tasks.distillation.storage import load_npz

    if not (folder / "distilled.npz").is_file():  # a FIFO would be waited for
        raise UsageError(f"A comparison needs the file {folder / 'distilled.npz'}, got none.")
    device = _built("device", settings.device).prepare()
    distilled = load_npz(folder / "distilled.npz")
    data = _built("data", settings.data)
    if not isinstance(data, Examples):
        raise UsageError(f"A comparison needs labelled examples, got {type(data).__name__}.")
    train, _, test = data.splits(generator(settings.seed, DATA))
    how = _built("retraining", retraining)
    contest = prepared(distilled, train, test, how, settings.seed, device)
    shape = tuple(train.x.shape[1:])
    models = {
        name: build(
            *(_built("model", node), shape, contest.classes, device),
            *(generator(settings.seed, DATA), contest.train.x),
        )
        for name, node in architectures.items()
    }
    tables = {COMPARISON: compare(contest, models)}
    if arguments.scores:
        tables[RANKING] = rank(contest, next(iter(models.values())))
    return tables


def _settings(path: Path, overrides: list[str], trusted: list[str]) -> DictConfig:
    """The settings of the run whose manifest is at `path`, with some changed."""
    try:
        manifest = json_tree(path)
        noted = {key: manifest["settings"][key] for key in NEEDED}
    except (Unread, KeyError, TypeError) as error:
        raise UsageError(
            f"A comparison needs {path} with the settings of a run, got {type(error).__name__}: "
            f"{error}. Name the folder that bilevel-run wrote."
        ) from error
    if "${" in json.dumps(noted):  # it could ask for the environment of who reads the folder
        raise UsageError(
            f"A comparison needs {path} with settings that are resolved, as bilevel-run writes "
            "them, got one with ${...}."
        )
    settings = OmegaConf.create(noted)
    OmegaConf.set_struct(settings, True)  # so that a misspelt override is no new setting
    settings.merge_with_dotlist(overrides)
    if "${" in json.dumps(OmegaConf.to_container(settings, resolve=False)):
        # Asked of what was read: yaml has more ways than Hydra to write the same word.
        raise UsageError(
            f"A comparison needs settings without ${{...}}, got {' '.join(overrides)[:100]!r}. "
            "Write out the value."
        )
    for key in NEEDED:
        for where, node in targeted(settings[key], key):
            _check_trusted(where, node, trusted, path)
    return settings


def _check_trusted(key: str, node: DictConfig, trusted: list[str], path: Path) -> None:
    """Refuses a class that is neither on a shelf nor at home in a package of --trust."""
    name = str(node[TARGET])
    if on_a_shelf(name):
        return
    package = name.split(".")[0]
    if package in trusted:  # and may be imported
        package = home(target(node, key))
    if is_ours(name) or package not in trusted:
        raise UsageError(
            f"A comparison builds classes of bilevel_cli, got {name} in {path}. "
            f"Add --trust {package} if that is a package of yours."
        )


def _option(group: str, name: str) -> DictConfig:
    """The node that an option of conf/ configures."""
    known = options.names(group)
    if name not in known:
        near = errors.hint(name, known)
        raise UsageError(f"{group} has no option {name!r}{near} It is one of {', '.join(known)}.")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        node: DictConfig = hydra.compose("config", [f"+{group}@chosen={name}"]).chosen
    OmegaConf.set_struct(node, False)
    return node


def _built(key: str, node: DictConfig) -> Any:
    """The object that a node configures; `key` is its name in messages."""
    from bilevel_cli.config.objects import make

    return make(OmegaConf.create({key: node}), key)


command = leaving.at_once(main)  # of the process of its own

if __name__ == "__main__":
    command()
