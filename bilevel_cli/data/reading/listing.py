"""Which images a folder of classes holds, and what in it is passed over."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bilevel_cli.data.reading import files, images
from bilevel_cli.records.plain import plain

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# Images of people who expect them to be read: to pass them over would lose them.
UNREAD = (".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx")
SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini")
SYSTEM_FOLDERS = ("__macosx", "@eadir", "$recycle.bin", "system volume information")
PARTS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
MAX_DEPTH = 32  # of folders in one another
SHOWN = 4  # kinds of files that a statement names
LONGEST = 60  # letters of a name in it


@dataclass(frozen=True)
class Listing:
    """What was found below a folder.

    Attributes:
        folder: The folder of the classes.
        classes: The images of each class, classes and images in the order of their names.
        others: Files that are passed over.
        hidden: Files and folders whose names begin with a dot, or that systems leave.
    """

    folder: Path
    classes: dict[str, list[Path]] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)

    @property
    def images(self) -> list[Path]:
        return [path for found in self.classes.values() for path in found]

    @property
    def nested(self) -> list[Path]:
        """Images that lie in a folder below that of their class."""
        return [p for p in self.images if len(p.relative_to(self.folder).parts) > 2]

    @property
    def passed_over(self) -> str:
        """'passed over 20 files: 20 .txt (fox/notes.txt, ...)', or an empty text."""
        counted = len(self.others) + len(self.hidden)
        if not counted:
            return ""
        kinds: dict[str, list[Path]] = defaultdict(list)
        for path in self.others:
            beside = path.parent == self.folder and path.suffix.lower() in SUFFIXES
            kind = path.suffix.lower() or "without suffix"
            kinds[plain(kind, LONGEST) + " beside the folders of classes" * beside].append(path)
        ranked = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
        told = [f"{len(paths)} {kind} ({self.example(paths)})" for kind, paths in ranked[:SHOWN]]
        if rest := sum(len(paths) for _, paths in ranked[SHOWN:]):
            told.append(f"{rest} of {len(ranked) - SHOWN} other kinds")
        if self.hidden:
            told.append(f"{len(self.hidden)} hidden or of the system")
        return f"passed over {counted} file{'s' * (counted > 1)}: {', '.join(told)}"

    def example(self, paths: list[Path]) -> str:
        """The first of some files, from the folder on, and whether there are more."""
        return plain(str(paths[0].relative_to(self.folder)), LONGEST) + ", ..." * (len(paths) > 1)


def by_class(folder: Path, who: str) -> Listing:
    """The images of each class, in its folder or in folders below.

    Raises:
        ValueError: There are fewer than two classes, one has no images, the folders are those of
            parts and not of classes, images of a kind that is not read are there, or a link leads
            out of the folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{who} needs the folder {folder}, got none. Set data.root.")
    found = Listing(folder)
    unread: list[Path] = []
    for place in _visible(folder, found, who):
        if not os.path.isdir(place):
            found.others.append(place)
            continue
        own = found.classes.setdefault(place.name, [])
        for path in _files(place, found, {folder.resolve()}, who):
            suffix = path.suffix.lower()
            if suffix in SUFFIXES or (suffix == ".avif" and "AVIF" in images.readable()):
                if path.is_symlink():
                    files.inside(path, folder, who)
                own.append(path)
            else:
                (unread if suffix in UNREAD else found.others).append(path)
    if unread:
        kinds = Counter(path.suffix.lower() for path in unread)
        raise ValueError(
            f"{who} reads no {' or '.join(sorted(kinds))}, got {len(unread)} of them in {folder} "
            f"({found.example(unread)}). Convert them to JPEG or PNG, HEIC by the package "
            "pillow-heif for one, or move them elsewhere."
        )
    _require_classes(found, who)
    return found


def counted(paths: list[Path], found: Listing, what: str) -> str:
    """'3 with transparency (cat/a.png, ...)', or an empty text for no files."""
    return f"{len(paths)} {what} ({found.example(paths)})" if paths else ""


def _require_classes(found: Listing, who: str) -> None:
    filled = [name for name, own in found.classes.items() if own]
    if len(filled) < 2:
        inner = sorted({path.relative_to(found.folder).parts[1] for path in found.nested})
        below = f", {plain(filled[0], LONGEST)}, with folders {_some(inner)}" if inner else ""
        raise ValueError(
            f"{who} needs images <class>/*.png, *.jpg or others of two classes in {found.folder}, "
            f"got {len(filled)} class{'es' * (len(filled) != 1)}{below}. Set data.root."
        )
    # More than half: an image may have been left beside the folders of classes.
    if {name.lower() for name in filled} <= PARTS and 2 * len(found.nested) > len(found.images):
        raise ValueError(
            f"{who} needs a folder for each class in {found.folder}, got {_some(filled)}, which "
            f"look like parts. Set data.root={found.folder / filled[0]}, or rename the folders."
        )
    empty = [name for name, own in found.classes.items() if not own]
    if empty:
        raise ValueError(
            f"{who} needs images in the folder of each class, got none in {_some(empty)} of "
            f"{found.folder}{f'; {found.passed_over}' if found.others else ''}. "
            "Add images, or move the folder elsewhere."
        )


def _some(names: list[str]) -> str:
    return ", ".join(plain(name, 20) for name in names[:3]) + ", ..." * (len(names) > 3)


def _files(place: Path, found: Listing, seen: set[Path], who: str) -> Iterator[Path]:
    """The files of a class, in the order of their names from its folder on."""
    if place.is_symlink():
        files.inside(place, found.folder, who)
    if place.resolve() in seen:
        raise ValueError(
            f"{who} needs each folder once, got {place}, a link to {place.resolve()}. "
            "Remove the link."
        )
    if len(place.relative_to(found.folder).parts) > MAX_DEPTH:
        raise ValueError(f"{who} reads at most {MAX_DEPTH} folders deep, got {place}. Move it.")
    seen.add(place.resolve())
    for path in _visible(place, found, who):
        if os.path.isdir(path):
            yield from _files(path, found, seen, who)
        else:
            yield path


def _visible(place: Path, found: Listing, who: str) -> Iterable[Path]:
    """What a folder holds, in the order of names, without what is hidden or of the system."""
    try:
        paths = sorted(place.iterdir())
    except OSError as error:
        raise ValueError(
            f"{who} cannot read the folder {place}: {error.strerror}. Give access to it, or set "
            "data.root."
        ) from error
    for path in paths:
        name = path.name.lower()
        if name.startswith(".") or name in (SYSTEM_FOLDERS if os.path.isdir(path) else SYSTEM):
            found.hidden.append(path)
        else:
            yield path
