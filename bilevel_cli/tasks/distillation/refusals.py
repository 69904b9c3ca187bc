"""What task=distill refuses, before any work."""

import math

from bilevel_cli.data.base import Labelled
from bilevel_cli.tasks.distillation.networks import Networks
from bilevel_cli.tasks.distillation.objectives.base import Objective
from bilevel_cli.tasks.distillation.real_batches import RealBatch
from bilevel_cli.tasks.distillation.siamese import Siamese


def check_settings(
    per_class: int | None, count: int | None, real_per_class: int, learn_labels: bool
) -> None:
    """Refuses numbers of images that no learned set can have."""
    sizes = {"per_class": per_class, "count": count, "real_per_class": real_per_class}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"Distillation needs {name} >= 1, got {name}={size}.")
    if (per_class is None) == (count is None):
        raise ValueError(
            "Distillation needs either per_class or count, got "
            f"per_class={per_class}, count={count}. Set one of them to null."
        )
    if count is not None and not learn_labels:
        raise ValueError(
            f"Distillation needs labels that are learned for images of no class, got "
            f"count={count}, learn_labels=false. Set task.learn_labels=true."
        )


def check_losses(count: int | None, l2: float, objective: Objective, networks: Networks) -> None:
    """Refuses an objective that the images or the networks do not suit."""
    if count is not None and objective.needs_classes:
        raise ValueError(
            f"{type(objective).__name__} compares learned and real images class by class, got "
            f"count={count} images of no class. Use task.per_class, or "
            "task/objective=validation."
        )
    if not 0 <= l2 < math.inf:
        raise ValueError(f"Distillation needs a finite l2 >= 0, got l2={l2}.")
    if objective.needs_target and not networks.targets:
        raise ValueError(
            f"{type(objective).__name__} needs networks that know what they should become, "
            f"got {type(networks).__name__}. Use task/networks=experts."
        )


def check_real_batch(real_batch: RealBatch, objective: Objective) -> None:
    """Refuses to choose real images that nobody looks at."""
    if real_batch.chooses and not objective.takes_real:
        raise ValueError(
            f"{type(real_batch).__name__} chooses the real images of an outer step, got "
            f"{type(objective).__name__}, which compares networks and looks at no real image. Use "
            "task/real_batch=random."
        )


def check_examples(train: Labelled, test: Labelled, siamese: Siamese | None) -> None:
    """Refuses examples of which no learned set can be made or judged."""
    if not train.x.is_floating_point():
        raise ValueError(
            "Distillation learns inputs, got whole numbers, which have no derivative. Use "
            "task=hpo or task=reweight for tokens."
        )
    if siamese is not None and train.x.ndim != 4:
        raise ValueError(
            f"Siamese needs images, got examples of shape {list(train.x.shape[1:])}. "
            "Leave out task/siamese."
        )
    if not len(test.y):
        raise ValueError("Distillation needs test examples, got none. Set data.test.")
