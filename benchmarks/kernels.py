"""Which kernels the affine layers of ours take, and what choosing them costs."""

import math
import tempfile
from pathlib import Path

import pandas as pd
import torch

from benchmarks import results
from bilevel_cli.core import autodiff
from bilevel_cli.machine.malloc import keep_freed_memory
from bilevel_cli.nn import affine, choosing

# Examples, inputs and outputs of layers.
LAYERS = (
    (5000, 784, 10),
    (5000, 2000, 20),
    (5000, 784, 300),
    (500, 784, 128),
    (5000, 256, 32),
)

WHERE = ("date", "processor", "instructions", "cores", "threads", "torch", "load_at_start")
TEXT = """The kernel that each product a b^T of affine layers of ours took: the faster one of two,
as measured when it first came, or the usual one where they were about as fast. Milliseconds are
those of the thread that calls, the least of a few. Choosing is done once and remembered; it is no
part of the times above."""
ELSEWHERE = """Where variables of oneDNN and MKL are named below, it is a processor with more
instructions that is held to fewer: the kernels are those of a processor without them, and caches
and clocks are not."""
HEADER = ["product", "oneDNN, ms", "torch, ms", "taken", "choosing, ms"]


@torch.no_grad()
def run() -> None:
    """Prints what is chosen for each of `LAYERS`, measured anew: oneDNN's time over torch's."""
    torch.set_default_dtype(torch.float32)
    keep_freed_memory()  # as in a run: new pages would cost as much as the product
    facts = {**choosing.machine(), "threads": torch.get_num_threads()}
    print("\n".join(f"* {name}: {value}" for name, value in facts.items()))
    print("\n| x | outputs | x W^T | G^T x | G W | choosing, ms |\n" + "| --- " * 6 + "|")
    for examples, inputs, outputs in LAYERS:
        x, weight = torch.randn(examples, inputs), torch.randn(outputs, inputs)
        with tempfile.TemporaryDirectory() as folder, affine.kernels_restored():
            affine.use("auto")
            choices = choosing.current()
            choices.folder = Path(folder)
            autodiff.grad(lambda x, w: affine.affine(x, w, None).square().sum(), (0, 1))(x, weight)
            lines = {line["case"]: line for line in choosing.Memory(choices.folder).lines()}
        cells = []
        for layouts in ("rows and rows", "columns and columns", "rows and columns"):
            (line,) = (line for case, line in lines.items() if f"in {layouts}," in case)
            ratio = line["seconds"]["onednn"] / line["seconds"]["torch"]
            cells.append(f"{ratio:.2f}, {line['kernel']}")
        cost = f"{1e3 * choices.seconds:.0f}"
        print(f"| [{examples}, {inputs}] | {outputs} | {' | '.join((*cells, cost))} |", flush=True)


def note(path: Path, case: str) -> None:
    """Appends what the choices of this process are now: a row for each kind and size of a product.

    Args:
        path: The CSV file.
        case: The name of the case that was computed.
    """
    choices = choosing.current()
    lines = choosing.Memory(choices.folder or choosing.cache_folder()).lines()
    measured = {line["case"]: line.get("seconds", {}) for line in reversed(lines)}
    for product, kernel in choices.taken.items():
        seconds = measured.get(product, {})
        times = {name: seconds.get(name, math.nan) for name in ("onednn", "torch", "measuring")}
        results.append(path, case=case, product=product, kernel=kernel, **times)


def rows(kernels: pd.DataFrame) -> list[list[str]]:
    """The table of the page: each product once, and the sum of what choosing cost."""
    if kernels.empty:
        return []
    once = kernels.drop_duplicates("product")
    found = [HEADER]
    for row in once.to_dict("records"):
        times = [f"{1e3 * row[name]:.3g}" for name in ("onednn", "torch", "measuring")]
        found.append([str(row["product"]), *times[:2], str(row["kernel"]), times[2]])
    found.append(["all", "", "", "", f"{1e3 * once.measuring.sum():.3g}"])
    return found
