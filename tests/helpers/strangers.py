"""Folders of runs as somebody may prepare them who wishes the reader of a report ill."""

import json
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pages import run_at

SECRET = "hunter2-of-the-reader"
ALIASES = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)

# More than text to a terminal, a browser, a spreadsheet, TeX, Markdown or OmegaConf.
TEXTS = (
    *("cg", "", " ", "ä", "日本", "x" * 3000, "1" * 400, "-0.5", "1e5", "nan", "true"),
    *("${oc.env:SECRET_TOKEN}", "${oc.decode:${oc.env:SECRET_TOKEN}}", "${a", "${seed}", "???"),
    *("\x1b[31mred\x1b[0m", "\x1b]8;;http://evil/\x07link\x1b]8;;\x07", "\x1b]0;title\x07"),
    *("\x9b2J", "a\rb", "a\nb\n\n# c", "a\tb", "\0", "\x7f", "\u2028"),
    *("\u202egpj.exe", "a\u200bb", "\ufeff", "\u2066x", "\ud800", "\udcff", "\ue000"),
    *("</script><img src=x onerror=alert(1)>", '" onmouseover="alert(1)', "</title><script>"),
    *("' onerror='x", "&lt;", "]]>", "<!--", "$title", "${title}", "%{x}", "{0}", "%s"),
    *('=HYPERLINK("http://evil")', "@SUM(1)", "+1+1", "-2+3", " =1", "\t=1", "\r=1", "\uff1d1"),
    *("a|b", "`x`", "![x](http://evil)", "[2pt]", "*", "_x_", "\\input{x}", "$x^2$", "%", "&", "~"),
    *("_target_", "a.b", "a/b", "hydra/x", "seed", "step", "!!python/name:os.system", "*a", "<<"),
)
NUMBERS = (0, 1, -1, 0.5, 1e308, -1e308, 5e-324, 10**299, 10**400, float("nan"), float("inf"), True)
CELLS = ("0", "1", "-0.5", "1e308", "-1e308", "1e-320", "nan", "inf", "", "x", "=1", "1e999", "\0")
STATUSES = ("completed", "running", "failed", "diverged", "oom", "interrupted")


def hostile_at(folder: Path, choice: random.Random) -> None:
    """Leaves a run with some of its files, names and entries replaced by something worse."""
    run_at(folder, [choice.random() for _ in range(4)], seed=choice.randrange(3))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["doubts"], manifest["choices"] = {}, {"method": "cg"}
    for _ in range(choice.randrange(5)):
        entry = choice.choice([*manifest, "command", "ended", "restores", text(choice)])
        manifest[entry] = tree(choice)
    manifest["status"] = choice.choice([*STATUSES, manifest["status"]])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in ("config", "hydra", "overrides"):
        (folder / ".hydra" / f"{name}.yaml").write_text(json.dumps(tree(choice)))
    for name in ("eval.csv", "train.csv", "weights.csv", "hyperparameters.csv"):
        if choice.random() < 0.4:
            (folder / name).write_bytes(table(choice).encode(errors="surrogateescape"))
    worse = [*WORSE.values(), Path.unlink]
    for path in sorted([*folder.glob("[!.]*"), *folder.glob(".hydra/*"), folder / "lock"]):
        if choice.random() < 0.15:
            path.touch()
            choice.choice(worse)(path)
    if choice.random() < 0.1:
        (folder / ".hydra").rename(folder / "moved")
        choice.choice((_secret, _filled("")))(folder / ".hydra")


def text(choice: random.Random) -> str:
    return "".join(choice.choices(TEXTS, k=choice.choice([1, 1, 1, 2])))


def tree(choice: random.Random, depth: int = 0) -> Any:
    """A value as JSON may have it."""
    kind = choice.random()
    if kind < 0.4:
        return text(choice).encode(errors="surrogatepass").decode(errors="replace")
    if kind < 0.6 or depth > 3:
        return choice.choice(NUMBERS)
    if kind < 0.7:
        return None
    some = [tree(choice, depth + 1) for _ in range(choice.randrange(4))]
    if kind < 0.8:
        return some
    names = ["sentence", "method", "_target_", "torch", "seed", "hydra", "runtime", "choices"]
    return {choice.choice([*names, text(choice)]): one for one in some}


def table(choice: random.Random) -> str:
    """A table of a run with numbers at the ends of what floats are, or one that is none."""
    if choice.random() < 0.6:
        columns = ["step", "seconds", "test_accuracy", "inner_grads", "peak_memory_mb", "weight"]
        cells: tuple[str, ...] = ("0", "1", "-0.5", "1e308", "-1e308", "1.7e308", "1e-320", "nan")
    else:
        columns = ["step", *choice.choices([*TEXTS, "acc", "log_l2", "best", "flag"], k=3)]
        cells = CELLS
    steps = sorted(choice.sample([0, 1, 2, 5, 10, 10**6, 2**53, 10**300], k=choice.randrange(5)))
    rows = [[str(step), *choice.choices(cells, k=len(columns) - 1)] for step in steps]
    lines = "\n".join([",".join(line) for line in (columns, *rows)])
    return f"{lines}\n".encode(errors="replace").decode()


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return replace


def _filled(content: str) -> Callable[[Path], None]:
    def fill(path: Path) -> None:
        path.write_text(content)

    return fill


def _socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    os.fchdir(here)
    os.close(here)


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 31)  # without a block on the disk


def _secret(path: Path) -> None:
    secret = path.parent / "..secret"
    secret.write_text(SECRET)
    path.symlink_to(secret)


# What may stand in place of a file to keep a reader waiting, or to show what it should not.
WORSE: dict[str, Callable[[Path], None]] = {
    "FIFO": _replaced(os.mkfifo),
    "folder": _replaced(Path.mkdir),
    "socket": _replaced(_socket),
    "link to a device": _replaced(lambda path: path.symlink_to("/dev/zero")),
    "link to itself": _replaced(lambda path: path.symlink_to(path)),
    "link to a secret": _replaced(_secret),
    "link to nothing": _replaced(lambda path: path.symlink_to("nowhere")),
    "two gigabytes": _replaced(_large),
    "aliases": _filled(ALIASES),
    "brackets": _filled("[" * 900_000),
    "keys": _filled('{"a":' * 150_000),
    "columns": _filled("step," + "a," * 10**6),
    "one line": _filled("step,a\n" + "1" * 10**6),
    "no rows": _filled("step,a\n" + "\n" * 10**6),
    "zeros": _filled("\0" * 10**6),
}
