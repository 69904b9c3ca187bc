"""Cross-entropy that is fast on a CPU for many examples of few classes."""

from torch import Tensor
from torch.nn import functional

from bilevel_cli.nn.serving import serves


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """-log softmax(logits)[target], as torch.nn.functional.cross_entropy.

    torch computes the softmax of a row with vectors of 16 numbers, and number by number where the
    row has fewer. This function transposes such rows and computes the softmax of many rows at once,
    with the classes in the first dimension. [5000, 10] in float32 on one core of an AMD EPYC with
    AVX512: torch takes 0.76 ms for the losses and this 0.09; 2.10 and 0.46 ms for a product with
    their Hessian.

    Args:
        logits: [examples, classes].
        targets: Class of each example, or probabilities [examples, classes].
        reduction: "mean", or "none" for the loss of each example.

    Returns:
        A number, or losses [examples].
    """
    if not _narrow(logits):
        return functional.cross_entropy(logits, targets, reduction=reduction)
    by_class = functional.log_softmax(logits.t().contiguous(), 0)
    if targets.is_floating_point():
        losses = -(by_class * targets.t()).sum(0)
    else:
        losses = -by_class.gather(0, targets[None])[0]
    return losses.mean() if reduction == "mean" else losses


def _narrow(logits: Tensor) -> bool:
    if not serves(logits, mapped=True):
        return False
    return logits.dim() == 2 and len(logits) >= 256 and logits.shape[1] < 16
