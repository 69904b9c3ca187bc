"""What runs left behind, whole or damaged."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bilevel_cli.records import lock
from bilevel_cli.records.plain import plain
from bilevel_cli.records.settings import NOT_SETTINGS, chosen
from bilevel_cli.report.read import bounded, contents, folders
from bilevel_cli.report.read.bounded import Unread
from bilevel_cli.report.read.cache import Cache
from bilevel_cli.report.read.contents import Contents, Known
from bilevel_cli.vocabulary import (
    COMPLETED,
    DIVERGED,
    EVAL,
    FAILED,
    HIGHER_IS_BETTER,
    INTERRUPTED,
    KILLED,
    LOCK,
    MANIFEST,
    MISSING,
    NOTES,
    OOM,
    RUNNING,
    TRAIN,
)

STATUSES = (COMPLETED, RUNNING, INTERRUPTED, FAILED, DIVERGED, OOM)  # that a manifest may have
FILES = (MANIFEST, TRAIN, EVAL)
OVERRIDES = "overrides.yaml"  # of Hydra's notes
TOGETHER = 64  # runs whose files are looked at together
APART = ("settings", "choices")  # entries of a manifest that a `Run` has itself
LONGEST = 1_000  # letters of an error or a doubt, of which a run writes a few lines


@dataclass(frozen=True, eq=False)
class Run:
    """A run as the files in its folder describe it.

    Attributes:
        folder: Where it is.
        name: What people call it: the path of its folder below the one that was searched, with
            escapes for letters that are not printed.
        status: That of its manifest; MISSING without one. A run that did not complete is RUNNING
            while a process holds the lock of its folder. It is KILLED where its manifest says
            RUNNING and no process holds the lock.
        error: Why it did not complete; None where it did or nobody knows.
        settings: The resolved configuration, by dotted names. Of a run without a manifest,
            interpolations stand as Hydra noted them.
        choices: The option that was chosen from each config group, as far as that is known.
        manifest: The manifest without its settings and choices; empty if missing.
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
        """The seed of its random numbers; None where that is unknown, or an interpolation."""
        seed = self.settings.get("seed")
        return None if isinstance(seed, str) and "${" in seed else seed

    @property
    def doubts(self) -> dict[str, str]:
        """Why its numbers may be wrong, as it noted itself: a sentence for each kind of doubt."""
        noted = self.manifest.get("doubts")
        return {
            plain(str(kind), LONGEST): plain(doubt["sentence"], LONGEST)
            for kind, doubt in (noted.items() if isinstance(noted, dict) else ())
            if isinstance(doubt, dict) and isinstance(doubt.get("sentence"), str)
        }


def read(roots: Sequence[Path], known: Known | None = None) -> list[Run]:
    """The runs in some folders and in all folders below them, each once.

    Args:
        roots: Folders of runs or of sweeps, or folders above them.
        known: What was read before; `watch` reads the same folders again and again.

    Raises:
        UsageError: A root is no folder.
        NoRuns: A root has no run in it.
    """
    skipped: list[str] = []
    places, found = folders.found(roots, skipped), list[Run]()
    with contents.opened() as kept:
        at_hand = Contents(known, kept)
        for start in range(0, len(places), TOGETHER):
            some = places[start : start + TOGETHER]
            at_hand.fetch([f"{folder}/{name}" for folder, _ in some for name in FILES])
            found += [_run(*one, at_hand) for one in some]
    found[0].warnings[:0] = skipped  # a comparison takes its warnings from its runs
    return found


def read_one(folder: Path, name: str) -> Run:
    """The run in a folder; one without rows where there is none.

    Args:
        folder: Of the run.
        name: What people call it.
    """
    return _run(folder, name, Contents(None, Cache(None, "")))


def _run(folder: Path, name: str, at_hand: Contents) -> Run:
    warnings: list[str] = []
    manifest = _manifest(folder / MANIFEST, at_hand, warnings)
    settings, source = manifest.get("settings"), folder / MANIFEST
    if not isinstance(settings, dict):
        settings = _config(folder, at_hand, warnings)
        source = folder / NOTES / "config.yaml"
    try:
        named = bounded.settings_of(settings)
    except Unread as reason:
        warnings.append(f"{source}: {reason}; its settings count as unknown.")
        named = {}
    train, evals = (_table(folder / name, at_hand, warnings) for name in (TRAIN, EVAL))
    error, patterns = manifest.get("error"), manifest.get("higher_is_better")
    return Run(
        folder,
        name,
        _status(manifest, folder),
        None if error is None else plain(str(error), LONGEST),
        named,
        _choices(manifest, folder, at_hand, warnings),
        bounded.shared({key: value for key, value in manifest.items() if key not in APART}),
        train,
        evals,
        warnings,
        tuple(map(str, patterns)) if isinstance(patterns, list) else HIGHER_IS_BETTER,
    )


def _manifest(path: Path, at_hand: Contents, warnings: list[str]) -> dict[str, Any]:
    try:
        manifest = at_hand.of(path)
    except Unread as error:
        warnings.append(f"{path}: {error}; its status counts as missing.")
        return {}
    if manifest is None:
        return {}
    if not isinstance(manifest, dict) or not isinstance(manifest.get("status"), str):
        warnings.append(f"{path}: not the manifest of a run; its status counts as missing.")
        return {}
    if manifest["status"] not in STATUSES:
        warnings.append(f"{path}: its status is none that a run has; it counts as missing.")
        return {**manifest, "status": MISSING}
    return manifest


def _table(path: Path, at_hand: Contents, warnings: list[str]) -> pd.DataFrame:
    """The whole rows of a table; no rows without a file."""
    try:
        table, wrong = at_hand.of(path) or (pd.DataFrame(), None)
    except Unread as error:
        table, wrong = pd.DataFrame(), str(error)
    if wrong:
        warnings.append(f"{path}: {wrong}.")
    return table


def _config(folder: Path, at_hand: Contents, warnings: list[str]) -> dict[str, Any]:
    """The settings as Hydra noted them, for a run that has no manifest yet or lost it.

    Interpolations stay as they stand: `${oc.env:TOKEN}` would show a secret of the reader.
    """
    found = _noted(folder, "config.yaml", at_hand, warnings)
    found = found if isinstance(found, dict) else {}
    return {key: value for key, value in found.items() if key not in NOT_SETTINGS}


def _noted(folder: Path, name: str, at_hand: Contents, warnings: list[str]) -> Any:
    """What a file of Hydra's notes has; None where there is none, or none that can be read."""
    path = folder / NOTES / name
    try:
        if path.parent.is_symlink():
            raise Unread("is in a folder that is a link, which is not followed")
        return at_hand.of(path)
    except Unread as error:
        warnings.append(f"{path}: {error}.")
        return None


def _status(manifest: dict[str, Any], folder: Path) -> str:
    status = manifest.get("status", MISSING)
    if status == COMPLETED:
        return COMPLETED
    held = lock.held(folder / LOCK)
    if held:  # whatever the manifest says: while a run is built, it is none or an old one
        return RUNNING
    return KILLED if status == RUNNING and held is False else status


def _choices(
    manifest: dict[str, Any], folder: Path, at_hand: Contents, warnings: list[str]
) -> dict[str, str]:
    """The choices in the manifest; of a run of version 0.1, or without a manifest, Hydra's notes.

    Replicas share these notes in the folder above them.
    """
    noted = manifest.get("choices")
    if not noted:
        noted = _noted(_with_notes(folder, "hydra.yaml"), "hydra.yaml", at_hand, warnings)
        for name in ("hydra", "runtime", "choices"):
            noted = noted.get(name) if isinstance(noted, dict) else None
    return bounded.shared(chosen(noted)) if isinstance(noted, dict) else {}


def typed(found: Sequence[Run]) -> list[list[str]]:
    """The settings that were typed for each run, as Hydra noted them: `task=meta`, `solver.lr=0.1`.

    Those of Hydra itself are left out. Replicas share the notes in the folder above them.

    Args:
        found: The runs. A warning is added to one whose notes cannot be read.
    """
    with contents.opened() as kept:
        at_hand, texts = Contents(None, kept), list[list[str]]()
        for start in range(0, len(found), TOGETHER):
            some = found[start : start + TOGETHER]
            places = [_with_notes(run.folder, OVERRIDES) for run in some]
            notes = [place / NOTES for place in places]
            at_hand.fetch([f"{one / OVERRIDES}" for one in notes if not one.is_symlink()])
            for run, folder in zip(some, places, strict=True):
                noted = _noted(folder, OVERRIDES, at_hand, run.warnings)
                texts.append([str(one) for one in noted] if isinstance(noted, list) else [])
        return texts


def _with_notes(folder: Path, name: str) -> Path:
    """The folder of a run, or that above it if only that has such a file of Hydra's notes."""
    own, above = (os.path.lexists(one / NOTES / name) for one in (folder, folder.parent))
    return folder.parent if above and not own else folder
