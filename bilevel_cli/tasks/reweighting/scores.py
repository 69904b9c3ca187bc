"""How well weights tell clean examples from flagged ones."""

import torch
from torch import Tensor


def share(which: Tensor) -> Tensor:
    """The share of true entries, 0-dim."""
    return which.to(torch.get_default_dtype()).mean()


def cleaning_scores(called_clean: Tensor, flag: Tensor) -> dict[str, Tensor]:
    """Precision, recall and F1 of calling examples clean, 0-dim.

    Args:
        called_clean: What the weights say, boolean, of shape [n].
        flag: Which labels are wrong, boolean, of shape [n].
    """
    hits = (called_clean & ~flag).sum().to(torch.get_default_dtype())
    called, clean = called_clean.sum(), (~flag).sum()
    return {
        "precision": hits / called.clamp(min=1),
        "recall": hits / clean.clamp(min=1),
        "f1": 2 * hits / (called + clean).clamp(min=1),
    }


def average_precision(suspicion: Tensor, flag: Tensor) -> Tensor:
    """The mean, over flagged examples, of the share of flagged ones among those ranked up to it.

    This is the area under the steps of the precision-recall curve, 0-dim. Examples that are equally
    suspicious keep their order.

    Args:
        suspicion: The larger, the earlier in the ranking; of shape [n].
        flag: Boolean, of shape [n].
    """
    # Whole numbers: no GPU repeats the running sums of others.
    found = flag[suspicion.argsort(descending=True, stable=True)].long()
    ranks = torch.arange(1, len(flag) + 1, device=flag.device)
    return (found * found.cumsum(0) / ranks).sum() / found.sum().clamp(min=1)


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's correlation of two lists of numbers [n], 0-dim; 0 where all of one are equal.

    It is Pearson's of the ranks, and equal numbers share the mean of theirs.
    """
    import pandas as pd  # here: a run does not wait for it

    ranks = pd.DataFrame({"x": x.cpu().numpy(), "y": y.cpu().numpy()}).rank()
    found = ranks["x"].corr(ranks["y"]) if (ranks.nunique() > 1).all() else 0.0
    return x.new_tensor(found)
