"""What runs left behind, whole or damaged."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bilevel_cli.errors import UsageError
from bilevel_cli.records import lock
from bilevel_cli.records.settings import NOT_SETTINGS, chosen, flat
from bilevel_cli.report.read import tables
from bilevel_cli.vocabulary import (
    COMPLETED,
    EVAL,
    HIGHER_IS_BETTER,
    KILLED,
    LOCK,
    MANIFEST,
    MISSING,
    RUNNING,
    TRAIN,
)


class NoRuns(UsageError):
    """No run is there. One may come, where a sweep has just begun."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run as the files in its folder describe it.

    Attributes:
        folder: Where it is.
        name: What people call it: the path of its folder below the one that was searched.
        status: That of its manifest; MISSING without one. A run that did not complete is RUNNING
            while a process holds the lock of its folder. It is KILLED where its manifest says
            RUNNING and no process holds the lock.
        error: Why it did not complete; None where it did or nobody knows.
        settings: The resolved configuration, by dotted names.
        choices: The option that was chosen from each config group, as far as that is known.
        manifest: The whole manifest; empty if missing.
        train: train.csv; no rows without the file.
        evals: eval.csv, likewise.
        warnings: What was damaged, a line each.
        higher_is_better: Patterns of the names of scores of which more is better.
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
        """The seed of its random numbers; None where that is unknown."""
        return self.settings.get("seed")

    @property
    def doubts(self) -> dict[str, str]:
        """Why its numbers may be wrong, as it noted itself: a sentence for each kind of doubt."""
        noted = self.manifest.get("doubts")
        return {
            plain(str(kind)): plain(doubt["sentence"])
            for kind, doubt in (noted.items() if isinstance(noted, dict) else ())
            if isinstance(doubt, dict) and isinstance(doubt.get("sentence"), str)
        }


def read(roots: Sequence[Path], known: tables.Known | None = None) -> list[Run]:
    """The runs in some folders and in all folders below them, each once.

    Args:
        roots: Folders of runs or of sweeps, or folders above them.
        known: Tables that were read before; `watch` reads the same folders again and again.

    Raises:
        UsageError: A root is no folder.
        NoRuns: A root has no run in it.
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
                f"below it has a {MANIFEST}, {TRAIN} or {EVAL}. Name a hydra.run.dir or "
                "hydra.sweep.dir."
            )
        for folder in folders:
            name = _name(folder, root, len(roots) > 1, len(folders) > 1)
            found.setdefault(folder.resolve(), (folder, name))
    return [read_one(folder, name, known) for folder, name in found.values()]


def _folders(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """A folder and all folders below it but hidden ones. Links are followed, but nowhere twice."""
    try:
        place = folder.stat()
        if (place.st_dev, place.st_ino) in seen:
            return
        seen.add((place.st_dev, place.st_ino))
        inside = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:  # it was deleted meanwhile, or may not be read
        return
    yield folder
    for name in sorted(inside):
        if not name.startswith("."):
            yield from _folders(folder / name, seen)


def _is_run(folder: Path) -> bool:
    if any((folder / name).exists() for name in (MANIFEST, TRAIN, EVAL)):
        return True
    # A run takes its lock before anything else, and writes the other files once it is built.
    return (folder / LOCK).exists() and (folder / ".hydra").is_dir()


def plain(text: str) -> str:
    """Text without letters that move the cursor of a terminal, end a line, or are no Unicode."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _name(folder: Path, root: Path, several_roots: bool, several_runs: bool) -> str:
    if several_roots:
        return plain(str(folder))
    alone = folder == root and not several_runs
    return plain(folder.resolve().name if alone else str(folder.relative_to(root)))


def read_one(folder: Path, name: str, known: tables.Known) -> Run:
    """The run in a folder; one without rows where there is none.

    Args:
        folder: Of the run.
        name: What people call it.
        known: As in `read`.
    """
    warnings: list[str] = []
    manifest = _manifest(folder / MANIFEST, warnings)
    settings = manifest.get("settings")
    if not isinstance(settings, dict):
        settings = _config(folder / ".hydra" / "config.yaml", warnings)
    try:
        named = flat(settings) if settings else {}
    except RecursionError:
        warnings.append(f"{folder}: its settings are nested too deeply; they count as unknown.")
        named = {}
    train, evals = (tables.read(folder / name, known, warnings) for name in (TRAIN, EVAL))
    error, patterns = manifest.get("error"), manifest.get("higher_is_better")
    return Run(
        folder,
        name,
        _status(manifest, folder),
        None if error is None else str(error),
        named,
        _choices(manifest, folder),
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
    """The settings as Hydra noted them, for a run that has no manifest yet or lost it."""
    if not path.is_file():
        return {}
    from omegaconf import OmegaConf  # here: most runs have a manifest

    try:
        settings = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:  # a YAML file can raise anything
        warnings.append(f"{path}: cannot be read ({type(error).__name__}); settings are unknown.")
        return {}
    found = settings if isinstance(settings, dict) else {}
    return {str(key): value for key, value in found.items() if key not in NOT_SETTINGS}


def _status(manifest: dict[str, Any], folder: Path) -> str:
    status = manifest.get("status", MISSING)
    if status == COMPLETED:
        return COMPLETED
    held = lock.held(folder / LOCK)
    if held:  # whatever the manifest says: while a run is built, it is none or an old one
        return RUNNING
    return KILLED if status == RUNNING and held is False else status


def _choices(manifest: dict[str, Any], folder: Path) -> dict[str, str]:
    """The choices in the manifest; of a run of version 0.1, or without a manifest, Hydra's notes.

    Replicas share these notes in the folder above them.
    """
    noted = manifest.get("choices")
    if noted and isinstance(noted, dict):
        return chosen(noted)
    for hydra in (folder / ".hydra", folder.parent / ".hydra"):
        path = hydra / "hydra.yaml"
        if path.is_file():
            break
    else:
        return {}
    try:
        with path.open("rb") as file:
            return chosen(_Loader(file).get_single_data()["hydra"]["runtime"]["choices"])
    except Exception:  # a YAML file can raise anything; classes in the manifest say nearly the same
        return {}


def typed(folder: Path) -> list[str]:
    """The settings that were typed for a run, as Hydra noted them: `task=meta`, `solver.lr=0.1`.

    Those of Hydra itself are left out. Replicas share the notes in the folder above them.
    """
    for hydra in (folder / ".hydra", folder.parent / ".hydra"):
        path = hydra / "overrides.yaml"
        if path.is_file():
            break
    else:
        return []
    try:
        with path.open("rb") as file:
            return [str(override) for override in _Loader(file).get_single_data()]
    except Exception:  # a YAML file can raise anything
        return []


# Both are safe; the one in C is ten times as fast, but PyYAML may have been built without it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
