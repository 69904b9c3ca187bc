"""The runs that several sections look at. Nothing is downloaded for them."""

from dataclasses import dataclass

from benchmarks.verify.rows import Given


@dataclass(frozen=True)
class Problem:
    """A run.

    Attributes:
        settings: Its overrides.
        small: Those that make it small, for a dry run.
        bounded: Whether bfloat16 costs its hypergradient less than what is trusted. Measured on a
            CPU: 1 % of its norm here, and about all of it where this is false.
    """

    settings: list[str]
    small: list[str]
    bounded: bool = False

    def overrides(self, given: Given) -> list[str]:
        """What `bilevel-run` is given for it."""
        return ["device=cuda", *self.settings, *(self.small if given.simulated else [])]


PROBLEMS = {
    "few-shot classification, Conv-4, IAPTT": Problem(
        ["task=meta", "method=iaptt", "data=digits", "model=conv4", "task.eval_episodes=16"],
        ["model.width=4", "task.episodes=2", "task.queries=1", "task.eval_episodes=2"],
    ),
    "hyper-cleaning, conjugate gradient": Problem(
        ["task=reweight", "method=cg", "data=digits", "inner_steps=20"],
        ["inner_steps=3"],
        bounded=True,
    ),
    "distillation, ConvNet, reverse mode": Problem(
        ["task=distill", "method=reverse", "data=digits", "model=convnet", "task.batch_size=null"],
        [
            *("model.width=4", "data.train=100", "data.test=20", "inner_steps=3"),
            *("task.networks.count=1", "task.real_per_class=2", "task.retraining.steps=2"),
        ],
    ),
}
