"""652 penalties of a classifier of digits, learned: docs/gallery.md.

A penalty for each weight of softmax regression on 100 digits, by task=hpo.
"""

import look
import torch
from sklearn.datasets import load_digits

CLASSES = 5


def draw() -> None:
    folder = look.run("penalties", "task=hpo", "data.train=100", "outer_steps=100")
    outer = torch.load(folder / "outer.pt", weights_only=True)
    name = next(name for name, value in outer.items() if value.ndim == 2)
    penalties = outer[name].reshape(-1, 8, 8)  # logarithms
    digits = load_digits()
    drawing = look.figure(700, 310)
    cells = drawing.subplots(2, CLASSES)
    low, high = penalties.min().item(), penalties.max().item()
    for digit in range(CLASSES):
        above, below = cells[:, digit]
        mean = digits.images[digits.target == digit].mean(axis=0)
        above.imshow(mean, cmap="gray_r", interpolation="bicubic")
        shown = below.imshow(penalties[digit], cmap="viridis", vmin=low, vmax=high)
        above.set_title(f"digit {digit}", loc="center")
        for cell in (above, below):
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set(visible=True)
    cells[0, 0].set_ylabel("mean image")
    cells[1, 0].set_ylabel("learned penalty")
    bar = drawing.colorbar(shown, ax=cells[1, :], pad=0.01, label="logarithm")
    bar.outline.set_visible(False)
    look.save(drawing, "penalties", "png")


if __name__ == "__main__":
    draw()
