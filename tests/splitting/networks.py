"""Networks whose neurons can be split, each with the widths that must be."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from small_models import Apply
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """A network with smooth activations.

    Attributes:
        build: makes it.
        shape: of an input.
        widths: that must be split.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    widths: frozenset[str]


def network(build: Callable[[], nn.Module], shape: tuple[int, ...], widths: str) -> Network:
    return Network(build, shape, frozenset(widths.split()))


def of(forward: Callable[..., Tensor], **parts: nn.Module | nn.Parameter | Tensor) -> Apply:
    """A network from a function; tensors become buffers."""
    buffers = {key: part for key, part in parts.items() if type(part) is Tensor}
    model = Apply(forward, **{key: part for key, part in parts.items() if key not in buffers})
    for key, buffer in buffers.items():
        model.register_buffer(key, buffer)
    return model


def hidden(forward: Callable[..., Tensor], **parts: nn.Module | nn.Parameter | Tensor) -> Apply:
    """The same with a layer `a` from 3 to 4 features, and a layer `out` from 4 to 2."""
    return of(forward, a=nn.Linear(3, 4), out=nn.Linear(4, 2), **parts)


class Block(nn.Module):
    """A basic block of ResNet, with softplus."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(size, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        down = nn.Sequential(nn.Conv2d(size, out, 1, bias=False), nn.BatchNorm2d(out))
        self.downsample = nn.Identity() if size == out else down

    def forward(self, x: Tensor) -> Tensor:
        inner = F.softplus(self.bn1(self.conv1(x)))
        return F.softplus(self.downsample(x) + self.bn2(self.conv2(inner)))


def conv_bn(size: int, out: int, kernel: int = 1, groups: int = 1) -> tuple[nn.Module, ...]:
    padding = kernel // 2
    return (nn.Conv2d(size, out, kernel, padding=padding, groups=groups, bias=False), nn.BatchNorm2d(out), nn.SiLU())


POOLED = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


def recurrent(model: Apply, x: Tensor) -> Tensor:
    state = torch.zeros_like(model.into(x[:, 0]))
    for time in range(x.shape[1]):
        state = torch.tanh(model.into(x[:, time]) + model.again(state))
    return model.out(state)


def recurrent_from_given(model: Apply, x: Tensor) -> Tensor:
    state = model.first
    for time in range(x.shape[1]):
        state = torch.tanh(model.into(x[:, time]) + model.again(state))
    return model.out(state)


def gated_recurrent(model: Apply, x: Tensor) -> Tensor:
    state = model.first(x[:, 0]).tanh()
    for time in range(1, x.shape[1]):
        update = torch.sigmoid(model.update(x[:, time]) + model.update_again(state))
        new = torch.tanh(model.new(x[:, time]) + update * model.new_again(state))
        state = (1 - update) * new + update * state
    return model.out(state)


def squeeze_excite(model: Apply, x: Tensor) -> Tensor:
    features = F.silu(model.features(x))
    gate = model.excite(F.silu(model.squeeze(features.mean(2)))).sigmoid()
    return model.out((features * gate[:, :, None]).mean(2))


def u_net(model: Apply, x: Tensor) -> Tensor:
    fine = model.down(x).tanh()
    coarse = model.inner(F.avg_pool1d(fine, 2)).tanh()
    return model.out(torch.cat([model.up(coarse).tanh(), fine], 1))


def attention(model: Apply, x: Tensor) -> Tensor:
    values = model.value(x).tanh()
    scores = model.query(values) @ model.key(values).transpose(1, 2)
    return model.out(scores.softmax(-1) @ values)


def densely(model: Apply, x: Tensor) -> Tensor:
    first = model.a(x)
    return model.out(torch.cat([first, model.b(first.tanh())], 1).sin())


def along_time(model: Apply, x: Tensor) -> Tensor:
    features = model.a(x).tanh()
    mixed = features + model.mix(features).tanh()  # mixes times: the units are not summed here
    return model.out(mixed.mean(2))


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


NETWORKS: dict[str, Network] = {
    "perceptron": network(
        lambda: nn.Sequential(nn.Linear(3, 5), nn.Softplus(), nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 2)),
        *((3,), "0 2"),
    ),
    "residual block": network(
        lambda: nn.Sequential(*conv_bn(2, 4), Block(4, 4), *POOLED, nn.Linear(4, 2)), (2, 3, 3), "0 3.conv1"
    ),
    "residual block that goes down": network(
        lambda: nn.Sequential(*conv_bn(2, 3), Block(3, 4), *POOLED, nn.Linear(4, 2)),
        *((2, 3, 3), "0 3.conv1 3.downsample.0"),
    ),
    "depthwise separable block": network(
        lambda: nn.Sequential(*conv_bn(2, 4), *conv_bn(4, 4, 3, 4), *conv_bn(4, 3), *POOLED, nn.Linear(3, 2)),
        *((2, 4, 4), "0 6"),
    ),
    "two layers of a gate": network(
        lambda: hidden(lambda m, x: m.out(F.silu(m.a(x)) * m.b(x)), b=nn.Linear(3, 4)), (3,), "a"
    ),
    "product of two layers": network(lambda: hidden(lambda m, x: m.out(m.a(x) * m.b(x)), b=nn.Linear(3, 4)), (3,), "a"),
    "sum of two activations": network(
        lambda: hidden(lambda m, x: m.out(m.a(x).tanh() + m.b(x).sin()), b=nn.Linear(3, 4)), (3,), "a"
    ),
    "sum of a layer and an activation, in place": network(
        lambda: hidden(lambda m, x: m.out(operator.iadd(2 * m.a(x), m.b(x).tanh())), b=nn.Linear(3, 4)), (3,), "a"
    ),
    "stream of activations": network(
        lambda: hidden(
            lambda m, x: m.out((h := m.a(x).tanh()) + m.back(m.b(h).tanh()).sin()),
            b=nn.Linear(4, 5),
            back=nn.Linear(5, 4),
        ),
        *((3,), "a b"),
    ),
    "one layer of a gate": network(
        lambda: of(
            lambda m, x: m.out((parts := m.a(x).chunk(2, -1))[1] * F.silu(parts[0])),
            a=nn.Linear(3, 8),
            out=nn.Linear(4, 2),
        ),
        *((3,), "a"),
    ),
    "glu": network(lambda: nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 2)), (3,), "0"),
    "squeeze and excite": network(
        lambda: of(
            squeeze_excite,
            features=nn.Conv1d(3, 4, 1),
            squeeze=nn.Linear(4, 3),
            excite=nn.Linear(3, 4),
            out=nn.Linear(4, 2),
        ),
        *((3, 5), "features squeeze"),
    ),
    "recurrent": network(
        lambda: of(recurrent, into=nn.Linear(3, 4), again=nn.Linear(4, 4), out=nn.Linear(4, 2)), (4, 3), "into"
    ),
    "recurrent from a buffer": network(
        lambda: of(
            recurrent_from_given,
            first=torch.randn(1, 4),
            into=nn.Linear(3, 4),
            again=nn.Linear(4, 4),
            out=nn.Linear(4, 2),
        ),
        *((3, 3), "into"),
    ),
    "gated recurrent": network(
        lambda: of(
            gated_recurrent,
            **{name: nn.Linear(3, 4) for name in ("first", "update", "new")},
            **{name: nn.Linear(4, 4) for name in ("update_again", "new_again")},
            out=nn.Linear(4, 2),
        ),
        *((3, 3), "first"),
    ),
    "transposed convolutions": network(
        lambda: nn.Sequential(
            *(nn.ConvTranspose1d(2, 4, 3, stride=2), nn.Softplus(), nn.ConvTranspose1d(4, 3, 2, output_padding=0)),
            *(nn.Softplus(), nn.Flatten(), nn.Linear(24, 2)),
        ),
        *((2, 3), "0 2"),
    ),
    "u-net": network(
        lambda: of(
            u_net,
            down=nn.Conv1d(3, 4, 3, padding=1),
            inner=nn.Conv1d(4, 5, 3, padding=1),
            up=nn.ConvTranspose1d(5, 4, 2, stride=2),
            out=nn.Conv1d(8, 2, 1),
        ),
        *((3, 4), "down inner up"),
    ),
    "dense block": network(lambda: of(densely, a=nn.Linear(3, 4), b=nn.Linear(4, 5), out=nn.Linear(9, 2)), (3,), "a b"),
    "attention over activations": network(
        lambda: of(attention, value=nn.Linear(3, 5), query=nn.Linear(5, 4), key=nn.Linear(5, 4), out=nn.Linear(5, 2)),
        *((4, 3), "value"),
    ),
    "a layer along time": network(
        lambda: of(along_time, a=nn.Conv1d(3, 4, 1), mix=nn.Linear(5, 5), out=nn.Linear(4, 2)), (3, 5), "a"
    ),
    "addmm": network(
        lambda: of(
            lambda m, x: torch.addmm(m.c, torch.addmm(m.b, x, m.w).tanh(), m.v),
            **{"w": parameter(3, 4), "b": parameter(4), "v": parameter(4, 2), "c": parameter(2)},
        ),
        *((3,), "b"),
    ),
    "products of matrices": network(
        lambda: of(lambda m, x: (x @ m.w + m.b).tanh() @ m.v, w=parameter(3, 4), b=parameter(4), v=parameter(4, 2)),
        *((3,), "w"),
    ),
    "a bilinear consumer": network(
        lambda: of(
            lambda m, x: m.out(m.pair(m.a(x).tanh(), m.b(x).tanh()).tanh()),
            a=nn.Linear(3, 4),
            b=nn.Linear(3, 5),
            pair=nn.Bilinear(4, 5, 3),
            out=nn.Linear(3, 2),
        ),
        *((3,), "a b"),
    ),
    "a quadratic form": network(
        lambda: of(
            lambda m, x: torch.einsum("nc,cd,nd->n", (h := m.a(x).tanh()), m.w, h)[:, None],
            a=nn.Linear(3, 4),
            w=parameter(4, 4),
        ),
        *((3,), "a"),
    ),
    "a weight norm behind": network(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))),
        *((3,), "0"),
    ),
    "a quotient behind a depthwise convolution": network(
        lambda: of(
            lambda m, x: m.out((m.one / (4 + m.depthwise(m.a(x).tanh()))).mean(2)),
            a=nn.Conv1d(3, 4, 1),
            depthwise=nn.Conv1d(4, 4, 3, groups=4),
            out=nn.Linear(4, 2),
            one=torch.ones(1),
        ),
        *((3, 5), "a"),
    ),
    "dropout before the activation": network(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Tanh(), nn.Linear(4, 2)), (3,), "0"
    ),
    "sine": network(lambda: hidden(lambda m, x: m.out(torch.sin(m.a(x)))), (3,), "a"),
    "square of an activation": network(lambda: hidden(lambda m, x: m.out(m.a(x).tanh().square())), (3,), "a"),
    "square of the output": network(lambda: hidden(lambda m, x: m.out(m.a(x) ** 2)), (3,), "a"),
    "two activations in a row": network(lambda: hidden(lambda m, x: m.out(F.softplus(m.a(x)).tanh())), (3,), "a"),
    "two activations of one output": network(
        lambda: hidden(lambda m, x: m.out((z := m.a(x)).tanh() * z.sigmoid())), (3,), "a"
    ),
    "output also used as it is": network(lambda: hidden(lambda m, x: m.out(torch.tanh(z := m.a(x)) + z)), (3,), "a"),
    "output also used in a list": network(
        lambda: hidden(lambda m, x: m.out(torch.stack([torch.tanh(z := m.a(x)), z]).square().sum(0))), (3,), "a"
    ),
    "output also used before its norm": network(
        lambda: hidden(lambda m, x: m.out(m.norm(z := m.a(x)).tanh() + z.sigmoid()), norm=nn.BatchNorm1d(4)),
        *((3,), "a"),
    ),
    "activation times itself": network(lambda: hidden(lambda m, x: m.out((h := m.a(x).tanh()) * h)), (3,), "a"),
    "activation times its neighbours": network(
        lambda: hidden(lambda m, x: m.out(torch.roll(h := m.a(x).tanh(), 1, 1) * h)), (4, 3), "a"
    ),
    "sums along time": network(lambda: hidden(lambda m, x: m.out(m.a(x).tanh().cumsum(1).tanh())), (4, 3), "a"),
    "deviation over time": network(lambda: hidden(lambda m, x: m.out(m.a(x).std(1))), (4, 3), "a"),
    "a choice between two activations": network(
        lambda: hidden(lambda m, x: m.out(torch.where((z := m.a(x)) > 0, z.sin(), z.tanh()))), (3,), "a"
    ),
    "norm over positions": network(
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 1), nn.Tanh(), nn.InstanceNorm1d(3, affine=True), nn.Flatten(), nn.Linear(12, 2)
        ),
        *((2, 4), "0"),
    ),
    "a norm for each unit": network(
        lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.GroupNorm(4, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 2)),
        *((2, 4), "0"),
    ),
    "a scale that is learned": network(
        lambda: hidden(lambda m, x: m.out(m.a(x).tanh() * m.scale.exp()), scale=parameter(4)), (3,), "a"
    ),
    "a layer that is called twice": network(
        lambda: of(
            lambda m, x: m.out(m.a(x[:, :2]).tanh()) * m.out(m.a(x[:, 2:]).tanh()),
            a=nn.Linear(2, 3),
            out=nn.Linear(3, 1),
        ),
        *((4,), "a"),
    ),
    "a look at the shape": network(
        lambda: hidden(lambda m, x: m.out((z := m.a(x)).tanh().to(z.device).view(z.size()))), (3,), "a"
    ),
    "a linear function of keywords": network(
        lambda: hidden(lambda m, x: F.linear(input=m.a(x).tanh(), weight=m.out.weight, bias=m.out.bias)), (3,), "a"
    ),
    "dropout behind the activation": network(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(), nn.Linear(4, 2)), (3,), "0"
    ),
    "two consumers": network(
        lambda: hidden(lambda m, x: m.out(h := m.a(x).tanh()) + m.b(h), b=nn.Linear(4, 2)), (3,), "a"
    ),
    "a frozen neighbour before": network(
        lambda: hidden(lambda m, x: m.out(m.a(m.b(x).tanh()).tanh()), b=nn.Linear(3, 3).requires_grad_(False)),
        *((3,), "a"),
    ),
    "a frozen consumer": network(
        lambda: of(
            lambda m, x: m.out(m.b(m.a(x).tanh())).square(),
            a=nn.Linear(3, 4),
            b=nn.Linear(4, 2).requires_grad_(False),
            out=nn.Linear(2, 2),
        ),
        *((3,), "a"),
    ),
    "checkpointed": network(
        lambda: hidden(
            lambda m, x: m.out(
                torch.utils.checkpoint.checkpoint(lambda y: m.b(m.a(y).tanh()).tanh(), x, use_reentrant=False)
            ),
            b=nn.Linear(4, 4),
        ),
        *((3,), "a b"),
    ),
    "encoder layer": network(
        lambda: nn.TransformerEncoderLayer(4, 2, 7, batch_first=True, activation=F.gelu), (5, 4), "linear1"
    ),
}
