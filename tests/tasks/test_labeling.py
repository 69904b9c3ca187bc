"""TURTLE: labels that linear heads learn, against a twin in plain torch."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from problems import seeded
from runners import built
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import weight_norm

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.trees import Params
from bilevel_cli.data.representations import Representations
from bilevel_cli.methods.explicit import Explicit
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.starts.cold import Cold
from bilevel_cli.tasks.labeling.agreement import RIDGE, cluster_accuracy, matched, probe_accuracy
from bilevel_cli.tasks.labeling.labeling import Labeling

CPU = torch.device("cpu")
GAMMA = 2.0


def blobs(path: Path) -> Path:
    """Sixty examples of three kinds, in the plane and, mirrored and shifted, in space."""
    kinds = np.arange(60) % 3
    numbers = np.random.default_rng(0)
    plane = 4 * np.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])[kinds]
    plane += numbers.normal(size=(60, 2))
    space = np.concatenate([-plane, numbers.normal(size=(60, 1))], 1) + 1
    np.savez(path, plane=plane, space=space, kind=np.array(["ant", "bee", "cat"])[kinds])
    return path


def posed(folder: Path, y: str | None = "kind", **changes: Any) -> Labeling:
    data = Representations(str(blobs(folder / "my.npz")), ["plane", "space"], y, 1.0)
    settings: dict[str, Any] = {
        "clusters": 3,
        "gamma": GAMMA,
        "normalize_rows": False,
        "probe_folds": 5,
        "batch_size": None,
    }
    return Labeling(**settings | changes, data=data, device=CPU, generator=seeded())


class Twin:
    """TURTLE in torch's own modules and optimizers."""

    def __init__(self, task: Labeling, outer: Params) -> None:
        self.spaces = task.spaces
        self.encoders = [weight_norm(nn.Linear(x.shape[1], 3)) for x in self.spaces]
        for k, encoder in enumerate(self.encoders):
            weight = encoder.parametrizations.weight
            weight.original0.data = outer[f"encoder.{k}.length"][:, None].clone()
            weight.original1.data = outer[f"encoder.{k}.direction"].clone()
            encoder.bias.data = outer[f"encoder.{k}.bias"].clone()

    def encoded(self) -> list[Tensor]:
        return [a(x).softmax(1) for a, x in zip(self.encoders, self.spaces, strict=True)]

    def fit(self, heads: list[nn.Linear], tau: Tensor) -> Tensor:
        parts = zip(heads, self.spaces, strict=True)
        return torch.stack([cross_entropy(head(x), tau) for head, x in parts]).sum()

    def outer_loss(self, heads: list[nn.Linear]) -> Tensor:
        encoded = self.encoded()
        shares: list[Any] = [Categorical(one.mean(0)) for one in encoded]
        entropies = [share.entropy() for share in shares]
        fit = self.fit(heads, torch.stack(encoded).mean(0))
        return fit - GAMMA * torch.stack(entropies).sum()

    def heads(self, init: Params) -> list[nn.Linear]:
        found = [nn.Linear(x.shape[1], 3) for x in self.spaces]
        for k, head in enumerate(found):
            head.weight.data = init[f"head.{k}.weight"].clone()
            head.bias.data = init[f"head.{k}.bias"].clone()
        return found

    def parameters(self) -> Params:
        found = {}
        for k, encoder in enumerate(self.encoders):
            weight = encoder.parametrizations.weight
            found[f"encoder.{k}.direction"] = weight.original1.detach()
            found[f"encoder.{k}.length"] = weight.original0.detach()[:, 0]
            found[f"encoder.{k}.bias"] = encoder.bias.detach()
        return found


def test_method_explicit_on_task_labeling_is_turtle(tmp_path: Path) -> None:
    task = posed(tmp_path)
    loop = InnerLoop(task, Adam(0.05, 0.9, 0.999, 1e-8), Cold())
    outer, source = task.init_outer(seeded(1)), seeded(2)
    twin = Twin(task, outer)
    theirs = torch.optim.Adam([p for a in twin.encoders for p in a.parameters()], lr=0.1)
    ours = torch.optim.Adam(list(outer.values()), lr=0.1)
    carry = Explicit().init(outer, loop.fresh(outer, task.sample(1, source)))
    for _ in range(3):
        data = task.sample(4, source)
        found = Explicit().estimate(loop, outer, data, carry)
        for name, value in outer.items():
            value.grad = found.grad[name]
        ours.step()
        with torch.enable_grad():
            heads = twin.heads(data.init)
            inner = torch.optim.Adam([p for head in heads for p in head.parameters()], lr=0.05)
            labels = torch.stack(twin.encoded()).mean(0).detach()
            for _ in range(4):
                inner.zero_grad()
                fit: Any = twin.fit(heads, labels)
                fit.backward()
                inner.step()
            theirs.zero_grad()
            loss: Any = twin.outer_loss(heads)
            loss.backward()
        theirs.step()
        torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dict(outer), twin.parameters(), rtol=1e-9, atol=1e-11)


def test_minibatches_of_the_inner_loss_have_its_mean(tmp_path: Path) -> None:
    task, whole = posed(tmp_path, batch_size=7), posed(tmp_path)
    outer = task.init_outer(seeded(1))
    data = task.sample(9, seeded())  # an epoch: 60 examples in blocks of 7
    assert sorted(data.inner["block"].tolist()) == list(range(9))
    parts = [task.inner_loss(data.init, outer, data.inner_at(t)) for t in range(9)]
    everything = whole.sample(1, seeded()).inner_at(0)
    expected = whole.inner_loss(data.init, outer, everything)
    torch.testing.assert_close(torch.stack(parts).mean(), expected)


def test_clusters_are_matched_to_classes_as_the_best_of_all_permutations_does() -> None:
    clusters, labels = (torch.randint(4, (50,), generator=seeded(n)) for n in (1, 2))
    shares = [
        (torch.tensor(order)[clusters] == labels).double().mean()
        for order in itertools.permutations(range(4))
    ]
    torch.testing.assert_close(cluster_accuracy(clusters, labels, (4, 4)), max(shares))
    assert cluster_accuracy((labels + 1) % 4, labels, (4, 4)) == 1
    # A fifth cluster that splits a class stands for none, and its examples are wrong.
    split = torch.where((labels == 0) & (torch.arange(50) < 10), 4, labels)
    found = matched(split, labels, (5, 4))
    assert found.tolist() == [0, 1, 2, 3, -1]
    wrong = int((split == 4).sum())
    assert cluster_accuracy(split, labels, (5, 4)) == pytest.approx(1 - wrong / 50)


@pytest.mark.parametrize("features", [5, 70])  # fewer than examples, and more
def test_the_probe_is_a_ridge_regression_judged_on_what_it_has_not_seen(features: int) -> None:
    x = torch.randn(60, features, generator=seeded(), dtype=torch.float64)
    labels = x[:, :3].argmax(1)
    order = torch.randperm(60, generator=seeded(0)) % 4
    wide = np.concatenate([x.numpy(), np.ones((60, 1))], 1)
    shares = []
    for fold in range(4):
        seen = (order != fold).numpy()
        ridge = Ridge(alpha=RIDGE * (wide**2).mean() * 60, fit_intercept=False)
        ridge.fit(wide[seen], np.eye(3)[labels.numpy()][seen])
        right = ridge.predict(wide[~seen]).argmax(1) == labels.numpy()[~seen]
        shares.append(right.mean())
    found = probe_accuracy([x], labels, 3, 4)
    assert float(found) == pytest.approx(np.mean(shares), abs=1e-12)
    assert 1 / 3 < float(found) < 1


def test_three_kinds_are_found_without_a_label_and_written_down(tmp_path: Path) -> None:
    path = blobs(tmp_path / "my.npz")
    run = built(
        tmp_path / "run",
        *("task=labeling", "data=representations", f"data.path={path}", "data.x=[plane,space]"),
        *("task.clusters=3", "task.normalize_rows=false", "method=explicit", "outer_steps=60"),
        *("optimizer.lr=0.1", "solver.lr=0.1", "eval_every=60", "log_every=60"),
    )
    assert run.run()
    scores = pd.read_csv(tmp_path / "run" / "eval.csv").iloc[-1]
    assert "cluster_accuracy" not in scores  # nobody has told it the labels
    assert scores["clusters"] == 3
    assert scores["entropy"] == pytest.approx(math.log(3), abs=0.05)
    run.result()
    table = pd.read_csv(tmp_path / "run" / "labels.csv")
    assert list(table.columns) == ["index", "cluster", "confidence"]
    assert table["index"].tolist() == list(range(60))
    kinds = torch.arange(60) % 3
    assert cluster_accuracy(torch.tensor(table["cluster"].to_numpy()), kinds, (3, 3)) == 1


def test_known_labels_are_scored_and_named_beside_their_clusters(tmp_path: Path) -> None:
    task = posed(tmp_path)
    outer, inner = task.init_outer(seeded(1)), task.sample(1, seeded()).init
    scores = task.evaluate(InnerLoop(task, Adam(0.1, 0.9, 0.999, 1e-8), Cold()), outer, inner)
    assert next(iter(scores)) == "cluster_accuracy"
    table = pd.read_csv(task.save_result(tmp_path, outer, inner)[0])
    assert table["label"].tolist() == ["ant", "bee", "cat"] * 20
    right = (table["label"] == table["matched"]).mean()
    assert right == pytest.approx(float(scores["cluster_accuracy"]))


def test_normalised_rows_are_centred_and_of_one_length(tmp_path: Path) -> None:
    plane, space = posed(tmp_path, normalize_rows=True).spaces
    torch.testing.assert_close(plane.norm(dim=1), torch.full((60,), 2**0.5))
    torch.testing.assert_close(space.norm(dim=1), torch.full((60,), 3**0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clusters": None, "y": None}, "number of clusters where the labels are unknown"),
        ({"clusters": 1}, "clusters from 2 to 60, all its examples, got clusters=1"),
        ({"gamma": -1.0}, "a finite gamma >= 0, got gamma=-1.0"),
        ({"probe_folds": 1}, "probe_folds from 2 to 60, all its examples, got probe_folds=1"),
        ({"batch_size": 61}, "batch_size from 1 to 60"),
    ],
)
def test_settings_that_cannot_serve_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        posed(tmp_path, **changes)
