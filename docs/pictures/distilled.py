"""Ten images that teach a network, as they are learned: docs/gallery.md.

The run is stopped at each of `STEPS` and goes on from there; `distilled.npz` has the images.
"""

import shutil

import look
import numpy as np
import pandas as pd

STEPS = (1, 20, 200)


def draw() -> None:
    drawing = look.figure(700, 250)
    cells = drawing.subplots(len(STEPS), 10)
    for row, step in zip(cells, STEPS, strict=True):
        kept = look.RUNS / f"distilled_{step}.npz"
        if not kept.exists():
            folder = look.run("distilled", "task=distill", f"outer_steps={step}", "eval_every=20")
            shutil.copy(folder / "distilled.npz", kept)
        images = np.load(kept)["images"][:, 0]
        for digit, (cell, image) in enumerate(zip(row, images, strict=True)):
            cell.imshow(image, cmap="gray_r", interpolation="bicubic")
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set(visible=True)
            if step == STEPS[0]:
                cell.set_title(str(digit), loc="center")
        row[0].set_ylabel(f"step {step}")
    look.save(drawing, "distilled", "png", colours=24)
    scores = pd.read_csv(look.RUNS / "distilled" / "eval.csv")
    print(scores.set_index("step")["retrained_accuracy"])


if __name__ == "__main__":
    draw()
