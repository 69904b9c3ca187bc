"""Which labels are wrong? Ranking flipped labels without clean examples, against cleanlab.

    pip install cleanlab==2.9.0
    python benchmarks/label_errors.py 10 11 12 13 14

The arguments are seeds; the table goes into docs/reweight.md. Each seed flips 10 % of the labels,
symmetrically, at random. Both sides see the same noisy labels and inputs, all of them, in five
folds, and both use softmax regression. cleanlab ranks by out-of-sample probabilities of
scikit-learn's LogisticRegression; we by the weights that `experiment=label_errors` learns.
"""

import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from cleanlab.rank import get_label_quality_scores
from hydra import compose, initialize_config_dir
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from bilevel_cli.config.options import CONF
from bilevel_cli.config.resolved import resolved
from bilevel_cli.runs.build import build

PAGE = Path(__file__).parents[1] / "docs" / "reweight.md"
BEGIN, END = "<!-- label_errors -->\n", "<!-- end of label_errors -->\n"
# The step size is that of the inputs: pixels in [0, 1], and rows of mean 0 and variance 1.
DATA = {"digits": "solver.lr=1.0", "breast_cancer": "solver.lr=0.1"}
SCORES = ("self_confidence", "normalized_margin")
PENALTIES = (1.0, 0.1)  # C of LogisticRegression, whose default is 1


def ours(data: str, seed: int) -> tuple[object, float]:
    """The task, with its noisy labels, and the average precision of its weights."""
    noise = ["task/noise=symmetric", "task.noise.share=0.1"]
    chosen = ["experiment=label_errors", f"data={data}", *noise, DATA[data], f"seed={seed}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*chosen, "device=cpu"])
    with tempfile.TemporaryDirectory() as folder:
        run = build(config, resolved(config), Path(folder), {})
        return run.experiment.task, run.run()["average_precision"]


def cleanlab(task, seed: int) -> dict[str, float]:
    """The average precision of cleanlab's rankings of the same examples."""
    x, y, flag = task.train.x.flatten(1).numpy(), task.train.y.numpy(), task.flag.numpy()
    folds = StratifiedKFold(task.episodes, shuffle=True, random_state=seed)
    found = {}
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=3000)
        probabilities = cross_val_predict(model, x, y, cv=folds, method="predict_proba")
        for score in SCORES:
            quality = get_label_quality_scores(y, probabilities, method=score)
            name = f"cleanlab, C = {penalty:g}, {score}"
            found[name] = average_precision_score(flag, -quality)
    return found


def main(seeds: list[int]) -> None:
    rows = []
    for data in DATA:
        for seed in seeds:
            since = time.perf_counter()
            task, precision = ours(data, seed)
            scores = {"`experiment=label_errors`": precision, **cleanlab(task, seed)}
            print(data, seed, f"{time.perf_counter() - since:.0f} s", scores, flush=True)
            rows += [{"data": data, "ranking": name, "score": s} for name, s in scores.items()]
    groups = pd.DataFrame(rows).groupby(["ranking", "data"], sort=False)
    table = groups["score"].agg(["mean", "std"])
    lines = ["| ranking | " + " | ".join(DATA) + " |", "|---|" + "---|" * len(DATA)]
    for name in dict.fromkeys(table.index.get_level_values(0)):
        cells = [table.loc[(name, data)] for data in DATA]
        shown = [f"{100 * cell['mean']:.1f} +- {100 * cell['std']:.1f}" for cell in cells]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    text = PAGE.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    PAGE.write_text(before + "\n".join(lines) + "\n" + after)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([int(seed) for seed in sys.argv[1:]])
