"""Distilled sets taken apart: pruned, mixed with real images, compared with networks stopped early,
and counted in bytes; and the files that others read."""

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import bilevel_run, exit_code
from configs import options, small
from hydra.utils import instantiate
from problems import seeded
from torch import Tensor

from bilevel_cli import models
from bilevel_cli.commands import distilled
from bilevel_cli.commands.rebuilding import option
from bilevel_cli.data.base import Labelled
from bilevel_cli.data.digits import Digits
from bilevel_cli.nn import building
from bilevel_cli.nn.functional import Functional
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.distillation import ranking
from bilevel_cli.tasks.distillation.contest import Contest, compare
from bilevel_cli.tasks.distillation.mixing import check_real, mix
from bilevel_cli.tasks.distillation.pruning import Lbpe, Pruning, check_sizes, lbpe, prune
from bilevel_cli.tasks.distillation.retraining import Retraining, hard
from bilevel_cli.tasks.distillation.selection import RandomReal
from bilevel_cli.tasks.distillation.stopped_early import _least, _stopped, agree

HOW = Retraining(2, 20, 0.1, 0.1, 0.9, 5e-4, None, 500, None)


def linear() -> Functional:
    """It begins at zero: with all images in a batch, two networks on one set are the same."""
    return building.build(models.Linear, (1, 8, 8), 10, torch.device("cpu"))


def digits() -> tuple[Labelled, Labelled]:
    """Forty images of every class, and the test examples."""
    train, _, test = Digits(1200, 1, 300).splits(seeded())
    return train.take(RandomReal().select(train.x, train.y, 40, seeded())), test


def contest(per_class: int, size: int | None = None, how: Retraining = HOW) -> Contest:
    """Real images in place of distilled ones."""
    train, test = digits()
    rows = RandomReal().select(train.x, train.y, per_class, seeded(1))
    images = train.x[rows]
    return Contest((images, hard(train.y[rows], 10)), train, test, how, 0, size or images.numel())


# --- pruning ---


def test_the_score_of_lbpe_is_a_mean_over_the_epochs_of_highest_accuracy() -> None:
    certain, wrong = torch.eye(2), torch.eye(2).flip(0)
    half = torch.full((2, 2), 0.5)
    unsure = torch.tensor([[0.6, 0.4], [0.3, 0.7]])
    epochs = torch.stack([wrong, unsure, half, certain])  # accuracies 0, 1, 1/2, 1
    # |(1, 0) - (0.6, 0.4)| = 0.4 sqrt 2, and that of the other image 0.3 sqrt 2; certain: 0.
    expected = torch.tensor([0.2, 0.15]) * 2**0.5
    torch.testing.assert_close(lbpe(epochs, torch.tensor([0, 1]), 2), expected)
    torch.testing.assert_close(lbpe(epochs, torch.tensor([0, 1]), 1), 2 * expected)  # the earlier


def test_lbpe_orders_images_as_a_loop_in_plain_torch_does() -> None:
    images, labels = contest(4).distilled
    weight = torch.zeros(10, 64, requires_grad=True)
    bias = torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], 0.1, 0.9, weight_decay=5e-4)
    found = []
    for _ in range(12):
        with torch.enable_grad():
            loss = cross_entropy(images.flatten(1) @ weight.T + bias, labels)
            weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
        optimizer.step()
        found.append((images.flatten(1) @ weight.T + bias).softmax(1))
    right = [float((p.argmax(1) == labels.argmax(1)).sum()) for p in found]
    best = sorted(range(12), key=lambda epoch: (-right[epoch], epoch))[:3]
    error = sum((labels - found[epoch]).square().sum(1).sqrt() for epoch in best)
    assert isinstance(error, Tensor)
    expected = [4 * label + error[4 * label : 4 * label + 4].argsort() for label in range(10)]
    order = Lbpe(12, 3).order((images, labels), 4, linear(), HOW, seeded())
    assert torch.equal(order, torch.stack(expected))


@pytest.mark.parametrize("name", options("task/pruning"))
def test_a_rule_keeps_so_many_of_each_class_and_all_of_them_are_the_distilled_set(
    name: str,
) -> None:
    rule: Pruning = instantiate(option("task/pruning", name))
    one = contest(4)
    order = rule.order(one.distilled, 3, linear(), HOW, seeded())
    assert order.shape == (10, 3)
    assert len(set(order.flatten().tolist())) == 30
    assert torch.equal(one.distilled[1].argmax(1)[order], torch.arange(10)[:, None].expand(10, 3))
    shorter = rule.order(one.distilled, 2, linear(), HOW, seeded())
    assert torch.equal(shorter, order[:, :2])
    table = prune(one, {"linear": linear()}, {name: rule}, [1, 4]).set_index("size")
    assert list(table) == ["set", "model", "mean", "std", "seeds"]
    whole = compare(one, {"linear": linear()}).set_index("set")["mean"]["distilled"]
    assert table["mean"][4] == pytest.approx(whole)
    assert table["mean"][1] < whole


def test_what_a_set_has_not_is_refused_by_number() -> None:
    one = contest(4)
    with pytest.raises(ValueError, match=r"from 1 to 4, .* got 2,5. Distil"):
        check_sizes(one, [2, 5])
    with pytest.raises(ValueError, match=r"from 0 to 40 real images .* got 0,41"):
        check_real(one, [0, 41])
    with pytest.raises(ValueError, match="best from 1 to epochs, got best=5, epochs=4"):
        Lbpe(4, 5)


# --- mixing ---


def test_all_real_images_alone_are_one_set_and_none_leave_the_distilled_one() -> None:
    one = contest(4)
    table = mix(one, {"linear": linear()}, [0, 40]).set_index("real")
    alone = compare(one, {"linear": linear()}).set_index("set")["mean"]
    assert table["mixed_accuracy"][0] == alone["distilled"]
    assert np.isnan(table["real_accuracy"][0])
    full = one.train.x, hard(one.train.y, 10)
    assert table["real_accuracy"][40] == float(one.accuracies(linear(), [full], HOW))
    # The four images of each class are among the forty, and so count twice.
    (images, labels), (x, y) = one.distilled, full
    both = torch.cat([images, x]), torch.cat([labels, y])
    assert table["mixed_accuracy"][40] == float(one.accuracies(linear(), [both], HOW))


def test_images_with_wrong_labels_hurt_real_ones_and_more_real_ones_mend_it() -> None:
    one = contest(10)
    images, labels = one.distilled
    wrong = Contest((images, labels.roll(1, 1)), one.train, one.test, HOW, 0, one.bytes)
    table = mix(wrong, {"linear": linear()}, [0, 10, 40]).set_index("real")
    assert table["mixed_accuracy"].is_monotonic_increasing
    assert (table["mixed_accuracy"] < table["real_accuracy"])[[10, 40]].all()


# --- agreement ---


def test_a_network_is_stopped_at_the_first_step_that_is_as_accurate() -> None:
    y = torch.zeros(4, dtype=torch.long)
    wrong = [
        torch.tensor(bits) for bits in ([1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1])
    ]

    def course() -> Iterator[Tensor]:
        yield from wrong
        pytest.fail("went on although all were found")

    half, three = _stopped(course(), y, [0.5, 0.7])
    assert torch.equal(half, wrong[1])
    assert torch.equal(three, wrong[3])
    assert torch.equal(_stopped(wrong[:2], y, [0.9])[0], wrong[1])


def test_the_least_number_is_found_without_asking_for_much_larger_ones() -> None:
    for least, most in itertools.product(range(1, 12), (1, 5, 11, 100)):
        asked: list[int] = []

        def holds(number: int, least: int = least, asked: list[int] = asked) -> bool:
            asked.append(number)
            return number >= least

        assert _least(holds, most) == min(least, most)
        assert max(asked, default=1) < 2 * least


def test_networks_that_train_alike_agree_and_shares_are_within_their_bounds() -> None:
    table = agree(contest(2), linear()).set_index("set")
    assert list(table.index) == ["distilled", "random", "early"]
    assert table["agreement_early"]["early"] == 1  # two courses from zero on the same examples
    assert table["accuracy"]["random"] == pytest.approx(table["accuracy"]["distilled"], abs=0.1)
    assert (table["stopped"] >= table["accuracy"] - 1e-12).all()
    # Both right: at least a + b - 1. One right and the other not: they differ.
    a, b = table["accuracy"], table["stopped"]
    assert (table["agreement_early"] >= a + b - 1).all()
    assert (table["agreement_early"] <= 1 - (a - b).abs()).all()
    assert table["expected"].between(a * b - 0.01, 1).all()


# --- bytes ---


def test_real_images_are_as_many_as_the_bytes_pay_for() -> None:
    images = 640  # bytes, of ten images of 8 x 8
    for size, each in ((3 * images, 3), (3 * images + 639, 3), (images - 1, 1), (5, 1)):
        one = contest(2, size)
        assert one.affordable == each
        table = compare(one, {"linear": linear()}).set_index("set")["bytes"]
        assert table.to_dict() == dict.fromkeys(table.index, each * images) | {"distilled": size}
        assert {len(x) for x, _ in one.chosen(RandomReal(), one.affordable)} == {10 * each}


# --- DD-Ranking ---


def test_the_scores_and_the_soft_loss_are_those_of_the_package_ddranking(tmp_path: Path) -> None:
    theirs = pytest.importorskip("ddranking")
    accuracies = {"full": 0.97, "syn": 0.88, "soft": 0.93, "random": 0.65}

    class Told(theirs.LabelRobustScoreSoft):  # type: ignore[misc, name-defined]
        """Takes accuracies in place of training."""

        def __init__(self) -> None:
            self.num_eval, self.ipc, self.num_classes, self.rank = 1, 1, 10, 0
            self.soft_label_mode, self.eval_full_data, self.use_dist = "S", True, False
            self.save_path = str(tmp_path / "scores.csv")
            self.given = iter([accuracies["soft"], accuracies["random"]])

        def _compute_hard_label_metrics_helper(self, mode: str, **_: Any) -> tuple[float, float]:
            return accuracies["syn" if mode == "syn" else "full"], 0.1

        def _compute_soft_label_metrics_helper(self, **_: Any) -> tuple[float, float]:
            return next(self.given), 0.1

        def _get_random_data_helper(self, eval_iter: int) -> tuple[None, None, None]:
            return None, None, None

    found = Told().compute_metrics(image_tensor=torch.zeros(1), soft_labels=torch.zeros(1))
    recovery, improvement = 0.97 - 0.88, 0.93 - 0.65
    assert found["hard_label_recovery_mean"] == pytest.approx(recovery)
    assert found["improvement_over_random_mean"] == pytest.approx(improvement)
    expected = ranking.label_robust_score(recovery, improvement, ranking.WEIGHT)
    assert found["label_robust_score_mean"] == pytest.approx(expected)
    # Students of a teacher: what ours minimise is their cross-entropy at temperature 1, and their
    # divergence but for the entropy of the teacher, which no student changes.
    student, teacher = (torch.randn(6, 10, generator=seeded(seed)) for seed in (0, 1))
    soft = teacher.softmax(1)
    ours = cross_entropy(student, soft)
    torch.testing.assert_close(theirs.SoftCrossEntropyLoss(temperature=1.0)(student, teacher), ours)
    entropy = -(soft * soft.log()).sum(1).mean()
    divergence = theirs.KLDivergenceLoss(temperature=1.0)(student, teacher)
    torch.testing.assert_close(divergence, ours - entropy)


# --- files and the command ---

run = partial(exit_code, "bilevel-distilled", distilled.main)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    brief = ["task.per_class=2", "inner_steps=1", "outer_steps=1", "device=cpu", "seed=3"]
    arguments = ["task=distill", *small("distill"), *brief, "hydra.run.dir=run"]
    assert bilevel_run(monkeypatch, *arguments) == 0
    return tmp_path / "run"


def test_a_distilled_file_says_what_it_is_to_who_has_numpy_and_torch_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(folder / "distilled.npz", allow_pickle=False) as file:
        assert file["class_names"].tolist() == [str(number) for number in range(10)]
        said = json.loads(str(file["provenance"]))
        stored = {name: torch.from_numpy(file[name]) for name in ("images", "mean", "std")}
    assert said["software"] == "bilevel-cli"
    assert (said["seed"], said["task"]["per_class"]) == (3, 2)
    assert (said["choices"]["task"], said["choices"]["data"]) == ("distill", "digits")
    noted = json.loads((folder / "manifest.json").read_text())
    assert said["settings_sha256"] == noted["settings_sha256"]
    assert said["versions"] == noted["versions"]
    assert str(folder) not in json.dumps(said), "no path of who made it"
    page = (Path(__file__).parents[2] / "docs" / "distill.md").read_text()
    (code,) = [part for part in page.split("```python\n")[1:] if "numpy.load" in part]
    names: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    exec(code.partition("```")[0], names)
    assert names["y"].shape == (20, 10)
    torch.testing.assert_close(names["x"] * stored["std"] + stored["mean"], stored["images"])
    assert not (folder / "result.partial").exists()


def test_the_command_prunes_mixes_and_looks_for_agreement(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--models", "linear", "--seeds", "2", "--steps", "3"]
    asked = ["--sizes", "1,2", "--prune", "random,lbpe", "--mixed", "0,1", "--agreement"]
    assert run(monkeypatch, folder, *few, *asked) == 0
    pruned = pd.read_csv(folder / "pruned.csv")
    assert list(zip(pruned["set"], pruned["size"], strict=True)) == [
        *(("random", 1), ("random", 2), ("lbpe", 1), ("lbpe", 2))
    ]
    assert list(pd.read_csv(folder / "mixed.csv")["real"]) == [0, 1]
    assert list(pd.read_csv(folder / "agreement.csv")["seeds"]) == [2, 2, 2]
    shown = capsys.readouterr().out
    assert all(f"Wrote {folder / name}.csv" in shown for name in ("pruned", "mixed", "agreement"))


WRONG = [
    (["--sizes", "1,3", "--prune", "random"], "sizes from 1 to 2"),
    (["--sizes", "1;2"], "--sizes needs whole numbers"),
    (["--sizes", "1", "--prune", "lpbe"], "Did you mean 'lbpe'?"),
    (["--prune", "lbpe"], "--prune needs sizes"),
    (["--mixed", "1000"], "Mixing needs from 0 to"),
]


def test_a_wrong_number_or_rule_is_one_message_before_any_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in WRONG:
        capsys.readouterr()
        assert run(monkeypatch, folder, "--models", "own", *arguments) == 2
        shown = capsys.readouterr().err
        assert message in shown
        assert len(shown.splitlines()) == 1
    assert not list(folder.glob("*d.csv"))
