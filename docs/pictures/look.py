"""What the pictures of the docs have in common: how they look, and how their runs are made.

Each script of this folder makes the runs of one picture and draws it:

    python docs/pictures/weights.py

Runs are kept in outputs/pictures, where the same script finds them again. A picture stands on a
light card of its own, so that it looks the same on a dark page.
"""

import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "outputs" / "pictures"

INK, FAINT, CARD = "#24292f", "#8a929b", "#fbfbfa"
BLUE, ORANGE, GREEN, PURPLE = "#2166ac", "#d6601d", "#1b8a5a", "#7b4ea3"
COLOURS = 96  # of a .png, which makes it three times as small as all do

plt.rcParams.update(
    {
        "figure.facecolor": CARD,
        "axes.facecolor": CARD,
        "savefig.facecolor": CARD,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "font.size": 9.5,
        "svg.hashsalt": "bilevel-cli",  # the same picture, the same file
    }
)


def figure(width: float, height: float, **arguments: object) -> Figure:
    """An empty figure, its size in pixels of a page."""
    return plt.figure(figsize=(width / 72, height / 72), layout="constrained", **arguments)


def run(name: str, *words: str) -> Path:
    """The folder of a run that is made now, continued, or there already."""
    folder = RUNS / name
    fixed = ["device=cpu", "device.threads=1", f"hydra.run.dir={folder}"]
    subprocess.run([sys.executable, "-m", "bilevel_cli", *words, *fixed], check=True)
    return folder


def sweep(name: str, *words: str) -> Path:
    """The folder of a sweep, likewise."""
    folder = RUNS / name
    fixed = ["device=cpu", "device.threads=1", f"hydra.sweep.dir={folder}"]
    subprocess.run([sys.executable, "-m", "bilevel_cli", "-m", *words, *fixed], check=True)
    return folder


def label(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    """Writes beside a curve what it is, in its colour: no legend is needed."""
    axes.annotate(
        text, (x, y), xytext=(4, 0), textcoords="offset points", color=colour, va="center"
    )


def save(drawing: Figure, name: str | Path, suffix: str = "svg", colours: int = COLOURS) -> None:
    """Writes the picture, and a .png of it in outputs/pictures to look at.

    Args:
        drawing: The picture.
        name: Of the file, which lies in this folder unless a path says otherwise.
        suffix: svg, or png where there are more points than paths are good for.
        colours: Of a png.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    path = HERE / f"{name}.{suffix}" if isinstance(name, str) else name
    seen = RUNS / f"{path.stem}.png"
    drawing.savefig(seen, dpi=144, metadata={"Software": None})
    if suffix == "png":
        Image.open(seen).convert("RGB").quantize(colours).save(path, optimize=True)
    else:
        drawing.savefig(path, dpi=144, metadata={"Date": None})
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
