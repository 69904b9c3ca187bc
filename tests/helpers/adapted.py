"""A transformer on tokens whose body is frozen, with adapters of low rank, as a user writes it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Adapted(nn.Module):
    """A linear layer that stays, and a product of two small matrices that is learned.

    Args:
        width: Inputs and outputs.
        rank: Of what is learned.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.body = nn.Linear(width, width)
        self.body.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.up = nn.Parameter(torch.zeros(width, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x @ self.down.T @ self.up.T


class Layer(nn.Module):
    """Attention whose queries and values are adapted, and two frozen linear layers."""

    def __init__(self, width: int, heads: int, rank: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value = Adapted(width, rank), Adapted(width, rank)
        self.key, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        for part in (self.key, self.out, self.wide, self.narrow, self.first, self.second):
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        split = (*x.shape[:2], self.heads, -1)
        q, k, v = (f(y).reshape(split).transpose(1, 2) for f in (self.query, self.key, self.value))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(seen)
        return x + self.narrow(F.gelu(self.wide(self.second(x))))


class Text(nn.Module):
    """Two such layers, and a head that is learned.

    Args:
        vocabulary: Tokens.
        width: Of the layers.
        rank: Of the adapters.
        input_shape: One length.
        num_outputs: Classes.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        rank: int,
        input_shape: tuple[int, ...],
        num_outputs: int,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.tokens.requires_grad_(False)
        self.layers = nn.Sequential(*(Layer(width, 2, rank) for _ in range(2)))
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.tokens(x)).mean(1))
