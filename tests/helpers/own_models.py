"""Models as users write them, on inputs of shape [1, 8, 8] unless they say otherwise."""

import random
import types
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Base(nn.Module):
    """Two layers with something between them."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.one = nn.Linear(64, 16)
        self.head = nn.Linear(16, num_outputs)
        self.extra()

    def extra(self) -> None:
        """What a kind of it has besides."""

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Any:
        return self.head(self.between(torch.tanh(self.one(x.flatten(1)))))


class ForeignForward(Base):
    """Has a normalisation whose forward is a function of its own."""

    def extra(self) -> None:
        self.norm = nn.LayerNorm(16)
        vars(self.norm)["forward"] = lambda x: F.layer_norm(x, (16,))

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x)


# --- that draw ------------------------------------------------------------------------------------


class FunctionalDropout(Base):
    def between(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class LayerDropout(Base):
    def extra(self) -> None:
        self.drop = nn.Dropout(0.1)

    def between(self, x: Tensor) -> Tensor:
        return self.drop(x)


class Noise(Base):
    def between(self, x: Tensor) -> Tensor:
        return x + 1e-9 * torch.randn_like(x)


class NoiseOfSeveral(Base):
    def between(self, x: Tensor) -> Tensor:
        return x * torch.bernoulli(torch.full_like(x, 0.5)) if len(x) > 1 else x


class Leaky(Base):
    def extra(self) -> None:
        self.leaky = nn.RReLU()

    def between(self, x: Tensor) -> Tensor:
        return self.leaky(x)


class PythonsNumbers(Base):
    def between(self, x: Tensor) -> Tensor:
        return x if random.random() < 0.9 else 0 * x


class NumpysNumbers(Base):
    def between(self, x: Tensor) -> Tensor:
        return x * np.random.rand()


class GeneratorOfItsOwn(Base):
    def extra(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def between(self, x: Tensor) -> Tensor:
        return x * torch.rand((), generator=self.generator)


# --- that remember --------------------------------------------------------------------------------


class RunningMean(Base):
    """A hand-made one, put in the place of the last."""

    mean: Tensor

    def extra(self) -> None:
        self.register_buffer("mean", torch.zeros(16))

    def between(self, x: Tensor) -> Tensor:
        self.mean = (0.9 * self.mean + 0.1 * x.mean(0)).detach()
        return x - self.mean


class RunningMeanInPlace(RunningMean):
    def between(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return x - self.mean


class BatchNorm(Base):
    def extra(self) -> None:
        self.norm = nn.BatchNorm1d(16)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x)


class OldSpectralNorm(Base):
    def extra(self) -> None:
        self.one = torch.nn.utils.spectral_norm(self.one)


class SpectralNorm(Base):
    def extra(self) -> None:
        torch.nn.utils.parametrizations.spectral_norm(self.one)


class MeanInAnAttribute(Base):
    def extra(self) -> None:
        self.mean = torch.zeros(16)

    def between(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return x - self.mean


class Counter(Base):
    """That does the same for the first hundred calls."""

    calls = 0

    def between(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x if self.calls < 100 else 2 * x


class Log(Base):
    def extra(self) -> None:
        self.log: list[float] = []

    def between(self, x: Tensor) -> Tensor:
        self.log.append(float(x.mean()))
        return x


class FirstBatch(Base):
    """Normalises by the statistics of the first batch that it sees."""

    def extra(self) -> None:
        self.scale: Tensor | None = None

    def between(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = x.std(0).detach()
        return x / self.scale


# --- that change what is not theirs ---------------------------------------------------------------


class StandardisesInPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x -= 0.5
        x *= 2.0
        return super().forward(x)


class BeginsInPlace(Base):
    """With a layer that leaves inputs from 0 to 1 as they are, but writes them."""

    def extra(self) -> None:
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.relu(x))


class MasksAView(Base):
    def forward(self, x: Tensor) -> Tensor:
        x[:, 0, 0][:, 2:4] = 1.0
        return super().forward(x)


class BehindTorchsBack(Base):
    def forward(self, x: Tensor) -> Tensor:
        x.data.mul_(0.5)
        return super().forward(x)


class Clips(Base):
    def between(self, x: Tensor) -> Tensor:
        self.head.weight.data.clamp_(-0.01, 0.01)
        return x


class BoundedTokens(nn.Module):
    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(2, 4, max_norm=0.1)
        self.head = nn.Linear(4, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x.flatten(1).long()).mean(1))


class Closure(Base):
    """Whose function is that of the module it was copied from."""

    def extra(self) -> None:
        self.shift = lambda x: x + self.one.bias

    def between(self, x: Tensor) -> Tensor:
        return self.shift(x)  # type: ignore[no-untyped-call]


# --- that are fine --------------------------------------------------------------------------------


class Cache(Base):
    def extra(self) -> None:
        self.places: Tensor | None = None

    def between(self, x: Tensor) -> Tensor:
        if self.places is None:
            self.places = torch.arange(16, dtype=x.dtype) / 16
        return x * self.places


class EvalDropout(LayerDropout):
    def extra(self) -> None:
        super().extra()
        self.drop.eval()


class EvalBatchNorm(BatchNorm):
    def extra(self) -> None:
        super().extra()
        self.norm.eval()


class BatchOfNow(Base):
    def extra(self) -> None:
        self.norm = nn.BatchNorm1d(16, track_running_stats=False)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x)


class EvalSpectralNorm(SpectralNorm):
    def extra(self) -> None:
        super().extra()
        self.eval()


class WeightNorm(Base):
    def extra(self) -> None:
        torch.nn.utils.parametrizations.weight_norm(self.one)


class LaterInPlace(Base):
    def between(self, x: Tensor) -> Tensor:
        return (2 * x).relu_()


class Logits(Base):
    def forward(self, x: Tensor) -> Any:
        return types.SimpleNamespace(logits=super().forward(x), hidden=x)


class DictOfLogits(Base):
    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


# --- starts ---------------------------------------------------------------------------------------


class Pretrained(nn.Module):
    """A body whose weights come from elsewhere, then a head."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.body = nn.Linear(64, 8)
        self.head = nn.Linear(8, num_outputs)
        with torch.no_grad():
            self.body.weight.fill_(0.125)
            self.body.bias.fill_(7.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x.flatten(1))))


class Frozen(Pretrained):
    def __init__(self, num_outputs: int) -> None:
        super().__init__(num_outputs)
        self.body.requires_grad_(False)


class FrozenRandom(Base):
    """Random features, and a matrix of the same draw in a buffer."""

    mixed: Tensor

    def extra(self) -> None:
        self.one.requires_grad_(False)
        self.register_buffer("mixed", torch.randn(16, 16))

    def between(self, x: Tensor) -> Tensor:
        return x @ self.mixed


class CustomInit(Base):
    """A scheme of its own, applied once in the constructor."""

    def extra(self) -> None:
        self.apply(self._draw)

    def _draw(self, part: nn.Module) -> None:
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)


class NumpysScheme(Base):
    def extra(self) -> None:
        drawn = np.random.normal(size=(16, 64)) + random.random()
        with torch.no_grad():
            self.one.weight.copy_(torch.from_numpy(drawn))


class Tied(nn.Module):
    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.enc = nn.Linear(64, 6, bias=False)
        self.mid = nn.Linear(6, 6, bias=False)
        self.again = nn.Linear(6, 6, bias=False)
        self.again.weight = self.mid.weight
        self.head = nn.Linear(6, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.mid(torch.tanh(self.enc(x.flatten(1)))))
        return self.head(torch.tanh(self.again(x)))


# --- attention ------------------------------------------------------------------------------------


class Transformer(nn.Module):
    """Rows of pixels as a sequence."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(8, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoded(x.reshape(-1, 8, 8)).mean(1))

    def encoded(self, x: Tensor) -> Tensor:
        return self.encoder(x)


class EvalTransformer(Transformer):
    """Which torch computes by a shortcut without derivatives where none seems to be wanted."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__(num_outputs)
        self.eval()


class ByHand(Transformer):
    """The same by its formulas: softmax(Q K^T / sqrt(d)) V in each of two heads."""

    def encoded(self, x: Tensor) -> Tensor:
        layer: Any = self.encoder.layers[0]
        attention = layer.self_attn
        q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        q, k, v = (part.reshape(*x.shape[:2], 2, 4).transpose(1, 2) for part in (q, k, v))
        mixed = (q @ k.transpose(2, 3) / 2).softmax(-1) @ v
        x = layer.norm1(x + attention.out_proj(mixed.transpose(1, 2).flatten(2)))
        return layer.norm2(x + layer.linear2(F.relu(layer.linear1(x))))


class Multihead(Transformer):
    def encoded(self, x: Tensor) -> Tensor:
        layer: Any = self.encoder.layers[0]
        return layer.self_attn(x, x, x, need_weights=False)[0]


class ScaledProduct(Transformer):
    def encoded(self, x: Tensor) -> Tensor:
        layer: Any = self.encoder.layers[0]
        x = layer.linear2(F.relu(layer.linear1(x)))[:, None]
        mask = torch.ones(8, 8, dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)[:, 0]


# --- without derivatives --------------------------------------------------------------------------


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * grads[0] * ctx.saved_tensors[0]


class OnceDifferentiable(Base):
    def between(self, x: Tensor) -> Tensor:
        return Square.apply(x)  # type: ignore[no-untyped-call]


class SquareDetached(Square):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * grads[0] * ctx.saved_tensors[0].detach()


class DetachedBackward(Base):
    def between(self, x: Tensor) -> Tensor:
        return SquareDetached.apply(x)  # type: ignore[no-untyped-call]


class StopsGradients(Base):
    def between(self, x: Tensor) -> Tensor:
        return x * x.detach()


class ThroughNumpy(Base):
    def between(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy())


class Kinks(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.relu() - (x - 0.1).abs()


class Unused(Base):
    def extra(self) -> None:
        self.other = nn.Linear(3, 3)


class Detached(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(super().forward(x).detach().numpy())


class OverwritesWhatItNeeds(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.mul_(2)  # the derivative of tanh is made of its output


# --- that fail ------------------------------------------------------------------------------------


class FailsAtOnce(Base):
    def extra(self) -> None:
        raise KeyError


class FailsLater(Base):
    def between(self, x: Tensor) -> Tensor:
        raise ValueError("\n\nwrong\nthing")


class FailsOnMany(Base):
    def between(self, x: Tensor) -> Tensor:
        assert len(x) < 5
        return x


class TwoInputs(nn.Module):
    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(64, num_outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.head((x * mask).flatten(1))


class Tuple(Base):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class LogitsOfNothing(Base):
    def forward(self, x: Tensor) -> Any:
        return {"scores": super().forward(x)}


class ComputesAgain(Base):
    def between(self, x: Tensor) -> Tensor:
        scaled: Tensor = checkpoint(self.scale, x, use_reentrant=False)
        return scaled

    def extra(self) -> None:
        self.scale = nn.Sequential(nn.Linear(16, 16), nn.Tanh())


class Unseeded(Base):
    def extra(self) -> None:
        drawn = np.random.default_rng().normal(size=(16, 64))
        with torch.no_grad():
            self.one.weight.copy_(torch.from_numpy(drawn))


class AllFrozen(Base):
    def extra(self) -> None:
        self.requires_grad_(False)


class NoParameters(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]


class Lazy(nn.Module):
    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.head = nn.LazyLinear(num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


# --- with tensors of their own device -------------------------------------------------------------


class PlainTensor(Base):
    def extra(self) -> None:
        self.scale = torch.ones(16)

    def between(self, x: Tensor) -> Tensor:
        return x * self.scale


class PlainTensorsWithin(Base):
    def extra(self) -> None:
        self.block = nn.Identity()
        vars(self.block)["settings"] = {"scales": [torch.ones(16)]}

    def between(self, x: Tensor) -> Tensor:
        settings: Any = self.block.settings
        return x * settings["scales"][0]


class MadeInForward(Base):
    def between(self, x: Tensor) -> Tensor:
        return x + torch.linspace(0, 1, 16)


class Masked(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.masked_fill(torch.arange(16) < 2, 0)


class MeanByNumpy(Base):
    def between(self, x: Tensor) -> Tensor:
        return x + torch.as_tensor(np.tanh(x.detach().numpy())).mean()


class ReturnsToHost(Base):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).cpu()


class SingleNumber(Base):
    """Torch lets a single number of a CPU meet tensors of any device, and any index too."""

    def extra(self) -> None:
        self.scale, self.order = torch.tensor(2.0), torch.arange(16).flip(0)

    def between(self, x: Tensor) -> Tensor:
        return x[:, self.order] * self.scale


class WhereItsInputIs(Base):
    scale: Tensor

    def extra(self) -> None:
        self.register_buffer("scale", torch.ones(16), persistent=False)

    def between(self, x: Tensor) -> Tensor:
        wide = torch.linspace(0, 1, 16, device=x.device) * self.scale
        return x + wide if x.sum() > 0 else x * x.max().item()
