"""Small models that the tests grow, one for each thing a network may be made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from growkit.surgery import Widen

Sizes = Mapping[str, int]


class Apply(nn.Module):
    """A function as a module, with other modules and parameters that it may use."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


class Residual(nn.Module):
    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Concat(nn.Module):
    """Branches side by side on axis 1; `None` stands for the input itself."""

    def __init__(self, *branches: nn.Module | None) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branch or nn.Identity() for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class SplitBack(nn.Module):
    """Two branches are joined, normalised together and taken apart again."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, left), nn.Linear(5, right)
        self.norm = nn.BatchNorm1d(left + right)
        self.left_head, self.right_head = nn.Linear(left, 3), nn.Linear(right, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        joined = self.norm(torch.cat([left, right], 1))
        a, b = joined.split([left.shape[1], right.shape[1]], 1)
        return self.left_head(a.relu()) * self.right_head(b.tanh())


class TiedLanguageModel(nn.Module):
    """The table that embeds the tokens also scores them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, size)
        self.norm = nn.LayerNorm(size)
        self.score = nn.Linear(size, 7, bias=False)
        self.score.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.score(self.norm(self.embedding(tokens)))


class LinearAttention(nn.Module):
    """Attention without softmax: keys meet queries in a contraction of two activations."""

    def __init__(self, keys: int, values: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(5, keys), nn.Linear(5, keys)
        self.value, self.out = nn.Linear(5, values), nn.Linear(values, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).tanh().transpose(1, 2)
        return self.out((scores @ self.value(x)) / x.shape[1])


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return x * gate[:, :, None, None]


@dataclass(frozen=True)
class Case:
    """A model of the zoo.

    `widths` are the growable widths with their sizes; `build` makes the model with any sizes. `uniform` widths want
    every unit copied equally often, `copies_only` ones take no new units. `random` models draw in training mode.
    """

    name: str
    build: Callable[[Sizes], nn.Module]
    shape: tuple[int, ...]
    widths: dict[str, int]
    uniform: frozenset[str] = field(default_factory=frozenset)
    copies_only: frozenset[str] = field(default_factory=frozenset)
    tokens: bool = False
    random: bool = False

    def model(self, dtype: torch.dtype = torch.float64, **sizes: int) -> nn.Module:
        """Return the model in training mode, every parameter and running statistic away from its trivial start."""
        model = self.build({**self.widths, **sizes}).to(dtype)
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif tensor.is_floating_point():
                    tensor.normal_(0, 0.5)
        return model

    def inputs(self, batch: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        if self.tokens:
            return (torch.randint(7, (batch, *self.shape)),)
        return (torch.randn(batch, *self.shape, dtype=dtype),)

    def widenings(self) -> Iterator[tuple[str, Widen]]:
        """Every way in which every width may grow without a change of the function, each with a telling name."""
        for name, size in self.widths.items():
            everyone = tuple(range(size))
            yield f"{name}-all", Widen(name, everyone)
            yield f"{name}-all-twice", Widen(name, everyone + everyone[::-1])
            if name in self.uniform:
                continue
            yield f"{name}-uneven", Widen(name, (size - 1, 0, size - 1))
            if name not in self.copies_only:
                yield f"{name}-new", Widen(name, new=2)
                yield f"{name}-copies-and-new", Widen(name, (size - 1, size - 1), 1)

    def __str__(self) -> str:
        return self.name


def _mlp(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.Linear(5, s["0"]), nn.GELU(), nn.Linear(s["0"], s["2"]), nn.Tanh(), nn.Linear(s["2"], 3))


def _dropout(s: Sizes) -> nn.Module:
    a, b = s["0"], s["3"]
    return nn.Sequential(nn.Linear(5, a), nn.Dropout(), nn.ReLU(), nn.Linear(a, b), nn.AlphaDropout(), nn.Linear(b, 3))


def _convnet(s: Sizes) -> nn.Module:
    a, b = s["0"], s["4"]
    return nn.Sequential(
        *(nn.Conv2d(2, a, 3, padding=1, bias=False), nn.BatchNorm2d(a), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.LeakyReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(b * 4, 3)),
    )


def _resnet(s: Sizes) -> nn.Module:
    stream, hidden, pooled = s["0"], s["1.body.0"], s["2.body.0"]
    return nn.Sequential(
        nn.Conv2d(2, stream, 3),
        Residual(
            nn.Conv2d(stream, hidden, 3, padding=1),
            nn.BatchNorm2d(hidden),
            nn.SiLU(),
            nn.Conv2d(hidden, stream, 1),
            nn.BatchNorm2d(stream),
        ),
        Residual(nn.Conv2d(stream, pooled, 1), nn.ELU(), nn.Conv2d(pooled, stream, 3, padding=1)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(stream, 3)),
    )


def _concat(s: Sizes) -> nn.Module:
    a, b, c = s["0.branches.0"], s["0.branches.1"], s["2"]
    return nn.Sequential(
        Concat(nn.Linear(5, a), nn.Linear(5, b), None),
        nn.Sigmoid(),
        nn.Linear(a + b + 5, c),
        nn.Softplus(),
        nn.Linear(c, 3),
    )


def _dense(s: Sizes) -> nn.Module:
    stem, grown = s["0"], s["1.branches.1"]
    return nn.Sequential(
        nn.Conv2d(2, stem, 3),
        Concat(None, nn.Conv2d(stem, grown, 3, padding=1), None),
        nn.BatchNorm2d(stem + grown + stem),
        *(nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * (2 * stem + grown), 3)),
    )


def _depthwise(s: Sizes) -> nn.Module:
    channels, multiplier, last = s["0"], s["3"], s["6"]
    return nn.Sequential(
        *(nn.Conv2d(2, channels, 3), nn.Conv2d(channels, channels, 3, groups=channels), nn.ReLU6()),
        nn.Conv2d(channels, channels * multiplier, 3, groups=channels, bias=False),
        *(nn.BatchNorm2d(channels * multiplier), nn.ReLU6()),
        *(nn.Conv2d(channels * multiplier, last, 1), nn.ReLU6(), nn.Conv2d(last, 3, 2)),
    )


def _grouped(s: Sizes) -> nn.Module:
    groups, inner, outer = s["0"], s["0.weight"], s["2"]
    return nn.Sequential(
        *(nn.Conv1d(2, groups * inner, 3), nn.Tanh()),
        *(nn.Conv1d(groups * inner, groups * outer, 3, groups=groups), nn.BatchNorm1d(groups * outer)),
        *(nn.ReLU(), nn.Conv1d(groups * outer, 3, 3)),
    )


def _transposed(s: Sizes) -> nn.Module:
    a, groups, inner, outer = s["0"], s["2"], s["2.weight[1]"], s["4"]
    return nn.Sequential(
        *(nn.Conv2d(2, a, 3, stride=2), nn.ReLU()),
        *(nn.ConvTranspose2d(a, groups * inner, 3, stride=2), nn.ReLU()),
        *(nn.ConvTranspose2d(groups * inner, groups * outer, 2, groups=groups), nn.Hardtanh()),
        nn.ConvTranspose2d(groups * outer, 3, 3),
    )


def _instance_norm(s: Sizes) -> nn.Module:
    a, b = s["0"], s["3"]
    return nn.Sequential(
        *(nn.Conv1d(2, a, 3), nn.InstanceNorm1d(a, affine=True, track_running_stats=True), nn.ReLU()),
        *(nn.ConvTranspose1d(a, b, 3), nn.InstanceNorm1d(b), nn.MaxPool1d(2), nn.Conv1d(b, 3, 3)),
    )


def _conv3d(s: Sizes) -> nn.Module:
    a, b = s["0"], s["4"]
    return nn.Sequential(
        *(nn.Conv3d(2, a, 3), nn.BatchNorm3d(a, affine=False), nn.ReLU(), nn.MaxPool3d(2)),
        *(nn.Conv3d(a, b, 2), nn.BatchNorm3d(b, track_running_stats=False), nn.ReLU()),
        *(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(8 * b, 3)),
    )


def _layer_norm(s: Sizes) -> nn.Module:
    stream, hidden = s["0"], s["1.body.1"]
    return nn.Sequential(
        nn.Linear(5, stream),
        Residual(nn.LayerNorm(stream), nn.Linear(stream, hidden), nn.GELU(), nn.Linear(hidden, stream)),
        *(nn.LayerNorm(stream), nn.Linear(stream, 3)),
    )


def _rms_norm(s: Sizes) -> nn.Module:
    stream, hidden = s["0"], s["1.body.1"]
    return nn.Sequential(
        nn.Linear(5, stream),
        Residual(nn.RMSNorm(stream), nn.Linear(stream, hidden), nn.SiLU(), nn.Linear(hidden, stream)),
        *(nn.RMSNorm(stream, elementwise_affine=False), nn.Linear(stream, 3)),
    )


def _group_norm(s: Sizes) -> nn.Module:
    groups, members, last = s["0"], s["0.weight"], s["3"]
    return nn.Sequential(
        *(nn.Conv2d(2, groups * members, 3), nn.GroupNorm(groups, groups * members), nn.ReLU()),
        *(nn.Conv2d(groups * members, last, 3), nn.GroupNorm(1, last), nn.ReLU(), nn.Conv2d(last, 3, 3)),
    )


def _gate(s: Sizes) -> nn.Module:
    channels, squeezed = s["0"], s["1.squeeze"]
    return nn.Sequential(
        nn.Conv2d(2, channels, 3),
        SqueezeExcite(channels, squeezed),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(channels, 3, 3),
    )


def _prelu(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, s["0"], 3), nn.PReLU(s["0"]), nn.Conv2d(s["0"], 3, 3))


def _shared(s: Sizes) -> nn.Module:
    size = s["first"]
    again = nn.Linear(size, size)
    return Apply(
        lambda m, x: m.last(m.again(m.again(m.first(x)).relu()).tanh()),
        first=nn.Linear(5, size),
        again=again,
        last=nn.Linear(size, 3),
    )


def _summed(s: Sizes) -> nn.Module:
    return Apply(
        lambda m, x: (m.hidden(x).relu() * m.gain).sum(-1, keepdim=True) + m.skip(x),
        hidden=nn.Linear(5, s["hidden"]),
        gain=nn.Parameter(torch.ones(s["hidden"])),
        skip=nn.Linear(5, 3),
    )


def _averaged(s: Sizes) -> nn.Module:
    return Apply(
        lambda m, x: m.hidden(x).relu().mean(-1, keepdim=True) * m.skip(x),
        hidden=nn.Linear(5, s["hidden"]),
        skip=nn.Linear(5, 3),
    )


def _extreme(s: Sizes) -> nn.Module:
    return Apply(
        lambda m, x: m.hidden(x).amax(-1, keepdim=True) * m.skip(x),
        hidden=nn.Linear(5, s["hidden"]),
        skip=nn.Linear(5, 3),
    )


def _tokens(s: Sizes) -> nn.Module:
    size, hidden = s["embed"], s["mix"]
    return Apply(
        lambda m, x: F.linear(m.mix(m.embed(x)).relu().mean(1), m.head.weight, m.head.bias),
        embed=nn.Embedding(7, size, padding_idx=0),
        mix=nn.Linear(size, hidden),
        head=nn.Linear(hidden, 3),
    )


CASES = [
    Case("mlp", _mlp, (5,), {"0": 6, "2": 4}),
    Case("dropout", _dropout, (5,), {"0": 6, "3": 4}, random=True),
    Case("convnet", _convnet, (2, 8, 8), {"0": 4, "4": 3}),
    Case("resnet", _resnet, (2, 6, 6), {"0": 4, "1.body.0": 3, "2.body.0": 2}),
    Case("concat", _concat, (5,), {"0.branches.0": 3, "0.branches.1": 2, "2": 4}),
    Case("dense", _dense, (2, 6, 6), {"0": 3, "1.branches.1": 2}),
    Case("split back", lambda s: SplitBack(s["left"], s["right"]), (5,), {"left": 4, "right": 3}),
    Case("depthwise", _depthwise, (2, 8, 8), {"0": 3, "3": 2, "6": 4}),
    Case("grouped", _grouped, (2, 10), {"0": 2, "0.weight": 3, "2": 2}),
    Case("transposed", _transposed, (2, 7, 7), {"0": 3, "2": 2, "2.weight[1]": 2, "4": 3}),
    Case("instance norm", _instance_norm, (2, 12), {"0": 3, "3": 4}),
    Case("conv3d", _conv3d, (2, 8, 8, 8), {"0": 3, "4": 2}),
    Case("layer norm", _layer_norm, (4, 5), {"0": 4, "1.body.1": 6}, uniform=frozenset({"0"})),
    Case("rms norm", _rms_norm, (5,), {"0": 4, "1.body.1": 6}, uniform=frozenset({"0"})),
    Case(
        *("group norm", _group_norm, (2, 8, 8), {"0": 2, "0.weight": 3, "3": 4}),
        uniform=frozenset({"0.weight", "3"}),
    ),
    Case("gate", _gate, (2, 6, 6), {"0": 4, "1.squeeze": 3}),
    Case("prelu", _prelu, (2, 6, 6), {"0": 4}),
    Case("shared", _shared, (5,), {"first": 4}),
    Case("summed", _summed, (5,), {"hidden": 4}),
    Case("averaged", _averaged, (5,), {"hidden": 4}, uniform=frozenset({"hidden"})),
    Case("extreme", _extreme, (5,), {"hidden": 4}, copies_only=frozenset({"hidden"})),
    Case(
        *("tied", lambda s: TiedLanguageModel(s["embedding"]), (5,), {"embedding": 4}),
        uniform=frozenset({"embedding"}),
        tokens=True,
    ),
    Case("tokens", _tokens, (4,), {"embed": 4, "mix": 3}, tokens=True),
    Case("attention", lambda s: LinearAttention(s["key"], s["value"]), (4, 5), {"key": 3, "value": 4}),
]

BY_NAME = {case.name: case for case in CASES}
