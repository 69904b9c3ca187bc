"""Few-shot classification: what to learn so that a few images of new classes suffice."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bilevel_cli.core import draws, episodes, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, OutputLoss, StepData
from bilevel_cli.core.start import LEARNED_PREFIX
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Classes
from bilevel_cli.nn.building import build
from bilevel_cli.nn.losses import cross_entropy

FEATURES_PREFIX = "shared."


class FewShot(OutputLoss, Task):
    """N-way K-shot classification (Vinyals et al., 2016, arXiv:1606.04080).

    An episode draws `ways` classes, and `shots` support and `queries` query images of each. The
    inner problem fits the support images, the outer loss is that of the query images. With
    adapt=all every parameter of the model is inner and the outer ones are its start: MAML (Finn et
    al., 2017, arXiv:1703.03400). With a prefix, those parameters are inner, with a learned start
    `init.*`, and all others outer and shared, `shared.*`: adapt=head is ANIL (Raghu et al., 2020,
    arXiv:1909.09157) and, with method=iaptt, the split of IAPTT-GM (Liu et al., 2021,
    arXiv:2110.00455). For a head that begins at a fixed point see `HyperRepresentation`.

    Scores: mean query accuracy after `eval_steps` inner steps over `eval_episodes` episodes of
    validation and of test classes, each with the half-width of its 95 % confidence interval, 1.96
    standard errors. The episodes are the same at every evaluation and for every method.

    Args:
        ways: Classes of an episode.
        shots: Support images of each class.
        queries: Query images of each class.
        episodes: Training episodes of an outer step.
        adapt: "all", or the prefix of the names of the inner parameters, such as "head".
        eval_episodes: Episodes of an evaluation, on validation and on test classes each.
        eval_steps: Inner steps of an evaluation.
        data: Images by class.
        model: The classifier, as conf/model builds it.
        device: Where the images live.
        generator: Draws the episodes of evaluations.
    """

    needs = Classes

    def __init__(
        self,
        ways: int,
        shots: int,
        queries: int,
        episodes: int,
        adapt: str,
        eval_episodes: int,
        eval_steps: int,
        data: Classes,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        counts = {
            "ways": (ways, 2),
            "shots": (shots, 1),
            "queries": (queries, 1),
            "episodes": (episodes, 1),
            "eval_episodes": (eval_episodes, 2),  # two, for a standard error
            "eval_steps": (eval_steps, 0),
        }
        for name, (count, least) in counts.items():
            if count < least:
                raise ValueError(
                    f"FewShot needs {name} >= {least}, got {name}={count}. Set task.{name}."
                )
        splits = data.classes()
        for part, images in splits._asdict().items():
            available, per_class = images.shape[:2]
            if ways > available or shots + queries > per_class:
                raise ValueError(
                    f"FewShot needs ways <= {available} and shots + queries <= {per_class} to draw "
                    f"episodes of {part} classes, got ways={ways}, shots={shots}, "
                    f"queries={queries}. Lower task.ways, task.shots or task.queries."
                )
        self.images = {part: images.to(device) for part, images in splits._asdict().items()}
        self.ways, self.shots, self.queries = ways, shots, queries
        self.episodes: int = episodes
        self.eval_episodes, self.eval_steps = eval_episodes, eval_steps
        self.fixed_start: Params = {}  # of the inner parameters, in a subclass that learns no start
        self.eval_seed = int(torch.randint(2**62, (1,), generator=generator))
        self.statement = f"Classes: {data.split_statement}."
        some = self.images["train"][0, :5].to(torch.get_default_dtype()) / 255
        self.model = build(model, tuple(some.shape[1:]), ways, device, generator, some)
        names = [name for name, _ in self.model.named_parameters()]
        self.inner_names = [n for n in names if adapt == "all" or n.startswith(adapt + ".")]
        if not self.inner_names:
            raise ValueError(
                f"FewShot needs adapt=all or the prefix of some parameters of the model, got "
                f"adapt={adapt}. The model has {', '.join(names)}."
            )

    def init_outer(self, generator: torch.Generator) -> Params:
        params = self.model.init(generator)
        inner = {name: params.pop(name) for name in self.inner_names}
        return trees.prefixed(FEATURES_PREFIX, params) | trees.prefixed(LEARNED_PREFIX, inner)

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init or trees.under(LEARNED_PREFIX, outer)

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        return self.draw("train", self.episodes, num_steps, generator)

    def draw(self, part: str, count: int, num_steps: int, generator: torch.Generator) -> StepData:
        """Draws episodes, without a wait for the device.

        Args:
            part: "train", "validation" or "test" classes.
            count: Number of episodes.
            num_steps: Inner steps, all on the same support images.
            generator: On the task's device.
        """
        images = self.images[part]
        available, per_class = images.shape[:2]

        def subsets(size: int, of: int, *shape: int) -> Tensor:
            return draws.uniform(*shape, of, generator=generator).topk(size).indices

        classes = subsets(self.ways, available, count)
        members = subsets(self.shots + self.queries, per_class, count, self.ways)
        drawn = images[classes[:, :, None], members].to(torch.get_default_dtype()) / 255
        support, query = drawn[:, :, : self.shots], drawn[:, :, self.shots :]
        inner = {"x": support.flatten(1, 2), "y": self._labels(count, self.shots)}
        outer = {"x": query.flatten(1, 2), "y": self._labels(count, self.queries)}
        repeated = {
            name: value[:, None].expand(count, num_steps, *value.shape[1:])
            for name, value in inner.items()
        }
        start = {n: value.expand(count, *value.shape) for n, value in self.fixed_start.items()}
        return StepData(start, repeated, outer)

    def inner_outputs(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self._logits(inner, outer, batch["x"])

    def loss_of_outputs(
        self, outputs: Tensor, inner: Params, outer: Params, batch: Batch
    ) -> Tensor:
        return cross_entropy(outputs, batch["y"])

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return cross_entropy(self._logits(inner, outer, batch["x"]), batch["y"])

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        return self.evaluate_after(loop, outer, [self.eval_steps])[self.eval_steps]

    def evaluate_after(
        self, loop: InnerLoop, outer: Params, counts: Sequence[int]
    ) -> dict[int, dict[str, Tensor]]:
        scores: dict[int, dict[str, Tensor]] = {count: {} for count in counts}
        for part in ("test", "validation"):
            generator = torch.Generator(self.images[part].device).manual_seed(self.eval_seed)
            data = self.draw(part, self.eval_episodes, max(1, *counts), generator)
            data = episodes.drawn(loop, outer, data, generator)

            def accuracies(episode: StepData) -> dict[str, Tensor]:
                state = loop.begin(outer, episode, loop.fresh(outer, episode))
                passed = zip(counts, loop.passing(state, outer, episode, counts), strict=True)
                return {str(n): self._accuracy(s["inner"], outer, episode.outer) for n, s in passed}

            for count, values in episodes.each(accuracies, chunk_size=50)(data).items():
                error = values.std() / math.sqrt(self.eval_episodes)
                found = {f"{part}_accuracy": values.mean(), f"{part}_ci95": 1.96 * error}
                scores[int(count)] |= found
        return scores

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `initialisation.pt`, a state_dict of the model: the start and the features.

        It writes `outer.pt` too where more was learned, such as step sizes.
        """
        path = directory / "initialisation.pt"
        learned = trees.under(FEATURES_PREFIX, outer) | trees.under(LEARNED_PREFIX, outer)
        whole = self.model.state_dict(self.fixed_start | learned)
        with path.open("wb") as file:
            torch.save({name: value.cpu() for name, value in whole.items()}, file)
        more = len(outer) > len(learned)
        return [path, *super().save_result(directory, outer, inner)] if more else [path]

    def _accuracy(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        logits = self._logits(inner, outer, batch["x"])
        return (logits.argmax(1) == batch["y"]).to(logits.dtype).mean()

    def _logits(self, inner: Params, outer: Params, x: Tensor) -> Tensor:
        return self.model.apply(trees.under(FEATURES_PREFIX, outer) | inner, x)

    def _labels(self, count: int, each: int) -> Tensor:
        device = self.images["train"].device
        return torch.arange(self.ways, device=device).repeat_interleave(each).expand(count, -1)
