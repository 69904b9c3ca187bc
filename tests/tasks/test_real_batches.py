"""Real batches of distillation: representative images by k-means in the present features."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from configs import composed, small
from runners import runner_in
from sklearn.cluster import KMeans
from torch import Tensor

from bilevel_cli.checks.conformance import check_task
from bilevel_cli.core import autodiff
from bilevel_cli.data.base import Labelled
from bilevel_cli.errors import UsageError
from bilevel_cli.runs.runner import Runner
from bilevel_cli.tasks.distillation.clusters import nearest_to_centres
from bilevel_cli.tasks.distillation.distillation import Distillation
from bilevel_cli.tasks.distillation.real import RealExamples

ROUNDS = 10  # as the yaml has it
MATCHING = ["task/objective=gradient_matching", "method=direct", "start=pool"]
MATCHING += ["model=mlp", "model.width=10"]


def build(directory: Path, *overrides: str, rule: str = "representative") -> Runner:
    directory.mkdir(exist_ok=True)
    sizes = [word for word in small("distill") if word != "model=linear"]
    words = ["task=distill", "device=cpu", "device.dtype=float64", f"task/real_batch={rule}"]
    return runner_in(composed(*words, *sizes, *MATCHING, *overrides), directory)


def task_of(runner: Runner) -> Distillation:
    assert isinstance(runner.experiment.task, Distillation)
    return runner.experiment.task


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_the_points_are_those_nearest_to_the_centres_of_scikit_learn(rounds: int) -> None:
    points = torch.randn(3, 60, 4, generator=seeded(rounds))
    found = nearest_to_centres(points, 6, rounds)
    for own, rows in zip(points.numpy(), found, strict=True):
        # No cluster of these points loses all of them, for which scikit-learn has another rule.
        means = KMeans(6, init=own[:6], n_init=1, max_iter=rounds, tol=0.0).fit(own)
        distances = np.linalg.norm(own[:, None] - means.cluster_centers_, axis=2)
        assert rows.tolist() == distances.argmin(0).tolist()


def test_each_of_well_separated_heaps_sends_its_middle_one() -> None:
    # Three of a heap lie on a line, so that the one in the middle is its mean.
    heaps = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]])
    steps = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    points = (heaps + steps[:, None]).flatten(0, 1)[None]  # the first four are of different heaps
    assert nearest_to_centres(points, 4, 5).tolist() == [[4, 5, 6, 7]]


def test_a_centre_that_loses_its_points_stays_and_as_many_clusters_as_points_are_all() -> None:
    same = torch.ones(1, 5, 2)
    assert nearest_to_centres(same, 3, 4).shape == (1, 3)
    points = torch.randn(2, 5, 3)
    assert nearest_to_centres(points, 5, 4).tolist() == [list(range(5))] * 2


def test_clusters_of_mapped_sets_are_those_of_each() -> None:
    points = torch.randn(4, 2, 30, 3)

    def choose(sets: Tensor) -> Tensor:
        return nearest_to_centres(sets, 5, 3)

    assert torch.equal(autodiff.vmap(choose)(points), torch.stack([choose(x) for x in points]))


def test_distinct_draws_of_unequal_classes_are_of_the_class_and_all_equally_likely() -> None:
    y = torch.tensor([0] * 3 + [2] * 9)
    x = torch.arange(12.0)[torch.randperm(12, generator=seeded(0))][:, None, None, None]
    examples = Labelled(x, y, torch.arange(12))
    real = RealExamples(examples, examples, 3, torch.device("cpu"))
    assert real.rarest == 3
    seen = torch.zeros(12)
    generator = seeded(1)
    for _ in range(600):
        drawn = real.draw_distinct(3, generator)
        numbers = real.in_units_of_the_data(drawn["x"]).flatten(1).round().long()
        assert numbers[0].sort().values.tolist() == x[:3].flatten().long().sort().values.tolist()
        assert len(set(numbers[1].tolist())) == 3
        seen[numbers.flatten()] += 1
    of_second = seen[x[3:].flatten().long()]
    # 3 of 9 each time: binomial with 600 draws and p = 1/3, deviation 11.5; five of them.
    assert (of_second - 200).abs().max() < 58
    assert drawn["y"].argmax(2).tolist() == [[0] * 3, [2] * 3]


@pytest.mark.gpu
def test_a_gpu_that_is_told_to_repeat_itself_chooses_as_a_cpu_does() -> None:
    points = torch.randn(3, 40, 4, generator=seeded(0))
    torch.use_deterministic_algorithms(True)
    try:
        found = nearest_to_centres(points.cuda(), 5, 4)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found.cpu(), nearest_to_centres(points, 5, 4))


# --- in the task ----------------------------------------------------------------------------------


def features_first(params: dict[str, Tensor], x: Tensor) -> Tensor:
    """What the hidden layer of the model makes of images, in plain torch."""
    hidden = x.flatten(1) @ params["hidden.0.weight"].mT + params["hidden.0.bias"]
    return hidden.relu()


def test_a_step_compares_with_the_representatives_in_the_features_of_its_own_network(
    tmp_path: Path,
) -> None:
    """Of the pool's network, which inner steps have moved, and not of a fresh one."""
    # Clusters of two would be ties: both points are equally near to their mean.
    sizes = ["data.train=400", "task.real_per_class=2", "start.size=1"]
    runner = build(tmp_path, "outer_steps=3", "solver.lr=0.5", *sizes)
    runner.run()
    task, state = task_of(runner), runner.state
    data = task.sample(1, seeded(0))
    inner = runner.experiment.loop.begin(state.outer, data, state.carry["inner"])["inner"]
    expected = []
    for images in data.outer["x"]:
        own = features_first(inner, images)
        means = KMeans(2, init=own[:2].numpy(), n_init=1, max_iter=ROUNDS, tol=0.0).fit(own.numpy())
        centres = torch.from_numpy(means.cluster_centers_)
        expected.append(images[torch.cdist(own, centres).argmin(0)])
    plain = {**data.outer, "x": torch.stack(expected), "y": data.outer["y"][:, :2]}
    random = task_of(build(tmp_path / "random", *sizes, rule="random"))
    found, wanted = (
        one.outer_loss(inner, state.outer, batch)
        for one, batch in ((task, data.outer), (random, plain))
    )
    torch.testing.assert_close(found, wanted)
    fresh = task.outer_loss(data.init, state.outer, data.outer)
    assert not torch.allclose(fresh, found)


@pytest.mark.parametrize(
    "objective", ["gradient_matching", "kernel_ridge", "distribution_matching"]
)
def test_a_task_with_representative_batches_conforms(objective: str, tmp_path: Path) -> None:
    check_task(task_of(build(tmp_path, f"task/objective={objective}", "task/siamese=digits")))


def test_a_run_with_them_is_continued_bit_for_bit_and_counts_what_it_embeds(
    tmp_path: Path,
) -> None:
    sizes = ["task.real_per_class=3", "log_every=1", "save_every=2"]

    def run(folder: str, steps: int) -> Runner:
        runner = build(tmp_path / folder, f"outer_steps={steps}", *sizes)
        runner.run()
        return runner

    whole = run("whole", 4)
    run("halves", 2)
    continued = run("halves", 4)
    assert torch.equal(whole.state.outer["images"], continued.state.outer["images"])
    each = task_of(whole).embedded
    assert each == 10 * task_of(whole).real.rarest
    for folder in ("whole", "halves"):
        passes = pd.read_csv(tmp_path / folder / "train.csv")["embedding_passes"]
        assert passes.tolist() == [each, 2 * each, 3 * each, 4 * each]
    assert f"embeds {each} of them" in task_of(whole).statement


def test_random_batches_are_those_of_before_and_count_nothing(tmp_path: Path) -> None:
    runner = build(tmp_path, "outer_steps=1", rule="random")
    task = task_of(runner)
    drawn, expected = task.sample(1, seeded(5)), task.real.draw(task.real_per_class, seeded(5))
    assert torch.equal(drawn.outer["x"], expected["x"])
    runner.run()
    assert "embedding_passes" not in pd.read_csv(tmp_path / "train.csv")


REFUSED: list[tuple[list[str], str]] = [
    (["task.real_batch.rounds=-1"], "rounds >= 0"),
    (["task.real_batch.candidates=0"], "candidates >= 1"),
    (["task.real_batch.candidates=4", "task.real_per_class=5"], "real_per_class <= 4"),
    (["task.real_per_class=80"], "the images of a class that it clusters"),
    (
        ["task/objective=trajectory_matching", "task/networks=experts"],
        "Use task/real_batch=random",
    ),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_cannot_be_chosen_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        build(tmp_path, *words)
