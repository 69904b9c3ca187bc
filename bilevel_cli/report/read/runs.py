"""What runs left behind, whole or damaged."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bilevel_cli.errors import UsageError
from bilevel_cli.records.settings import NOT_SETTINGS, flat
from bilevel_cli.report.read import tables
from bilevel_cli.vocabulary import HIGHER_IS_BETTER

TABLES = ("train.csv", "eval.csv")
COMPLETED, GOING, KILLED, MISSING = "completed", "running", "killed", "missing"


class NoRuns(UsageError):
    """No run is there, perhaps not yet."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as its folder tells of it.

    Attributes:
        folder: Where it is.
        name: Its folder below the root under which it was found, for people.
        status: Of its manifest; "missing" without one; "killed" where a manifest says "running"
            and no process holds the lock of the folder.
        error: Why it ended, where it did not complete.
        settings: The resolved configuration, by dotted names.
        choices: The option chosen in each config group, of those known.
        manifest: All of it; empty if missing.
        train: train.csv, costs and all; no rows where there is none.
        evals: eval.csv, likewise.
        warnings: What was damaged, a line each.
        higher_is_better: Patterns of the names of scores that are.
    """

    folder: Path
    name: str
    status: str
    error: str | None
    settings: dict[str, Any]
    choices: dict[str, str]
    manifest: dict[str, Any]
    train: pd.DataFrame
    evals: pd.DataFrame
    warnings: list[str]
    higher_is_better: tuple[str, ...]

    @property
    def seed(self) -> Any:
        """What its random numbers were begun with; None where that is unknown."""
        return self.settings.get("seed")

    @property
    def doubts(self) -> dict[str, str]:
        """Why its numbers may not be what they seem, as it noted: a sentence for each kind."""
        noted = self.manifest.get("doubts")
        return {
            plain(str(kind)): plain(doubt["sentence"])
            for kind, doubt in (noted.items() if isinstance(noted, dict) else ())
            if isinstance(doubt, dict) and isinstance(doubt.get("sentence"), str)
        }


def read(roots: Sequence[Path], known: tables.Known | None = None) -> list[Run]:
    """The runs in some folders and all below them, each once.

    Args:
        roots: The folders: of runs, of sweeps, or above them.
        known: Tables that were read before, for those who read again and again.

    Raises:
        UsageError: One of them is no folder.
        NoRuns: One of them has no run in it.
    """
    known = {} if known is None else known
    found: dict[Path, tuple[Path, str]] = {}
    for root in roots:
        if not root.is_dir():
            raise UsageError(
                f"A report needs folders of runs, got {root}: there is no such folder."
            )
        folders = [folder for folder in _folders(root, set()) if _is_run(folder)]
        if not folders:
            raise NoRuns(
                f"A report needs a folder with runs in it, got {root}: neither it nor a folder "
                "below it has a manifest.json, train.csv or eval.csv. Name a hydra.run.dir or "
                "hydra.sweep.dir."
            )
        for folder in folders:
            name = _name(folder, root, len(roots) > 1, len(folders) > 1)
            found.setdefault(folder.resolve(), (folder, name))
    return [_read(folder, name, known) for folder, name in found.values()]


def _folders(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """`folder` and all below it but hidden ones; through links, but nowhere twice."""
    try:
        place = folder.stat()
        if (place.st_dev, place.st_ino) in seen:
            return
        seen.add((place.st_dev, place.st_ino))
        inside = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:  # it went, or is not ours to read
        return
    yield folder
    for name in sorted(inside):
        if not name.startswith("."):
            yield from _folders(folder / name, seen)


def _is_run(folder: Path) -> bool:
    if any((folder / name).exists() for name in ("manifest.json", *TABLES)):
        return True
    # A run has its lock before anything else, and notes the rest once it is built.
    return (folder / "lock").exists() and (folder / ".hydra").is_dir()


def plain(text: str) -> str:
    """Without what would move the cursor of a terminal, end a row of a table, or be no Unicode."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _name(folder: Path, root: Path, several_roots: bool, several_runs: bool) -> str:
    if several_roots:
        return plain(str(folder))
    alone = folder == root and not several_runs
    return plain(folder.resolve().name if alone else str(folder.relative_to(root)))


def _read(folder: Path, name: str, known: tables.Known) -> Run:
    warnings: list[str] = []
    manifest = _manifest(folder / "manifest.json", warnings)
    settings = manifest.get("settings")
    if not isinstance(settings, dict):
        settings = _config(folder / ".hydra" / "config.yaml", warnings)
    try:
        named = flat(settings) if settings else {}
    except RecursionError:
        warnings.append(f"{folder}: its settings are nested too deeply; they count as unknown.")
        named = {}
    train, evals = (tables.read(folder / table, known, warnings) for table in TABLES)
    error, patterns = manifest.get("error"), manifest.get("higher_is_better")
    return Run(
        folder,
        name,
        _status(manifest, folder),
        None if error is None else str(error),
        named,
        _choices(folder),
        manifest,
        train,
        evals,
        warnings,
        tuple(map(str, patterns)) if isinstance(patterns, list) else HIGHER_IS_BETTER,
    )


def _manifest(path: Path, warnings: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        warnings.append(f"{path}: no JSON ({error}); its status counts as missing.")
        return {}
    if isinstance(manifest, dict) and isinstance(manifest.get("status"), str):
        return manifest
    warnings.append(f"{path}: not the manifest of a run; its status counts as missing.")
    return {}


def _config(path: Path, warnings: list[str]) -> dict[str, Any]:
    """The settings as Hydra noted them, for a run that has no manifest, or not yet."""
    if not path.is_file():
        return {}
    from omegaconf import OmegaConf  # here: most runs have a manifest

    try:
        settings = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:  # of a YAML file, anything
        warnings.append(f"{path}: cannot be read ({type(error).__name__}); settings are unknown.")
        return {}
    found = settings if isinstance(settings, dict) else {}
    return {str(key): value for key, value in found.items() if key not in NOT_SETTINGS}


def _status(manifest: dict[str, Any], folder: Path) -> str:
    status = manifest.get("status", MISSING)
    if status == COMPLETED:
        return COMPLETED
    held = _held(folder / "lock")
    if held:  # before the manifest says so, too: it is being built, perhaps to continue another
        return GOING
    return KILLED if status == GOING and held is False else status


def _choices(folder: Path) -> dict[str, str]:
    """From Hydra's own notes, which replicas share: they lie in the folder above."""
    for hydra in (folder / ".hydra", folder.parent / ".hydra"):
        path = hydra / "hydra.yaml"
        if path.is_file():
            break
    else:
        return {}
    try:
        with path.open("rb") as file:
            choices = _Loader(file).get_single_data()["hydra"]["runtime"]["choices"].items()
    except Exception:  # of a YAML file, anything; the classes in the manifest say nearly the same
        return {}
    return {
        str(group): str(option)
        for group, option in choices
        if option is not None and not str(group).startswith("hydra")
    }


# Safe, and ten times as fast where PyYAML was built with C.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _held(lock: Path) -> bool | None:
    """Whether a run holds its lock, which is asked for, and let go, in microseconds.

    None where that cannot be known: on some file systems, of some files of others.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False
