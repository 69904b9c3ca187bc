"""Twenty nodes on which a graph network learns what it would learn on two hundred."""

import torch
from sklearn.cluster import spectral_clustering
from torch import Tensor
from torch.nn.functional import one_hot

from bilevel_cli import Batch, InnerLoop, Params, StepData, Task, autodiff

NODES, CLASSES, NETWORKS = 200, 4, 5
SHAPES = {"first": (16, 16), "second": (16, CLASSES)}  # of the weights of a network


class CoarsenedGraph(Task):
    """The features of a few nodes, on which graph networks are trained; see README.md.

    Scores: accuracy and loss of the networks on the nodes of the whole graph without a label.

    Args:
        nodes: That are learned, from 2 to 100.
        merge: Whether they begin as the means of clusters, or as labelled nodes drawn at random.
        match: Whether F compares gradients on both graphs, or is the loss on the whole graph.
        device, generator: Given by the run.
    """

    def __init__(
        self, nodes: int, merge: bool, match: bool, device: torch.device, generator: torch.Generator
    ) -> None:
        if not 2 <= nodes <= 100:
            raise ValueError(f"CoarsenedGraph needs 2 to 100 nodes, got nodes={nodes}.")
        self.match, y = match, torch.arange(NODES) % CLASSES
        edges = torch.bernoulli(torch.where(y[:, None] == y, 0.15, 0.05), generator=generator)
        edges = edges.triu(1) + edges.triu(1).T + torch.eye(NODES)
        x = one_hot(y, 16) + torch.randn(NODES, 16, generator=generator)
        order = torch.randperm(NODES, generator=generator)
        member = torch.eye(NODES)[order[:nodes]]  # [nodes, NODES]
        if merge:
            clusters = spectral_clustering(edges.numpy(), n_clusters=nodes, random_state=0)
            member = one_hot(torch.from_numpy(clusters).long(), nodes).to(x).T
        y = one_hot(y, CLASSES).to(x)
        known = y.index_fill(0, order[100:], 0.0)  # the label of every other node
        self.large, self.test = graph(edges, x, known, device), graph(edges, x, y - known, device)
        x = member @ x / member.sum(1, keepdim=True)
        self.small = graph(member @ edges @ member.T, x, member @ known, device)

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"x": self.small["x"]}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        new, shapes = self.small["x"].new_empty, SHAPES.items()
        init = {n: new(NETWORKS, *s).normal_(0, 0.3, generator=generator) for n, s in shapes}
        steps = {name: part.expand(num_steps, *part.shape) for name, part in self.small.items()}
        return StepData(init, steps, self.large)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        decay = [0.0025 * weights.square().sum() for weights in inner.values()]
        return loss(inner, {**batch, **outer}) + torch.stack(decay).sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        if not self.match:
            return loss(inner, batch)
        a, b = (autodiff.grad(loss)(inner, g) for g in ({**self.small, **outer}, batch))
        return 2 - torch.stack([torch.cosine_similarity(a[n], b[n], 1).mean() for n in a]).sum()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        hits = self.test["y"].gather(1, logits(inner, self.test).argmax(-1).T)  # of half the nodes
        return {"test_accuracy": 2 * hits.mean(), "test_loss": loss(inner, self.test) / NETWORKS}


def graph(a: Tensor, x: Tensor, y: Tensor, device: torch.device) -> Batch:
    scale = a.sum(1).rsqrt()
    return {"a": (scale[:, None] * a * scale).to(device), "x": x.to(device), "y": y.to(device)}


def logits(weights: Params, batch: Batch) -> Tensor:
    return batch["a"] @ (batch["a"] @ batch["x"] @ weights["first"]).tanh() @ weights["second"]


def loss(weights: Params, batch: Batch) -> Tensor:
    return -(batch["y"] * logits(weights, batch).log_softmax(-1)).sum() / batch["y"].sum()
