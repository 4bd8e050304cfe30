"""Division by a norm over the units: preserved when all of them are copied equally often."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import growkit


class Net(nn.Module):
    """Two layers with something in between that has a gain and an attribute for the root of the width."""

    def __init__(self, middle, width=6, out=6):
        super().__init__()
        self.first, self.last = nn.Linear(5, width), nn.Linear(out, 3)
        self.gain, self.scale, self.middle = nn.Parameter(torch.rand(width) + 0.5), width**0.5, middle

    def forward(self, x):
        return self.last(self.middle(self, self.first(x)))


class Attention(nn.Module):
    """Queries and keys of length one, with or without gains."""

    def __init__(self, gains):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(6, 6) for _ in range(4))
        self.heads, self.gains = 2, nn.ParameterList(torch.rand(3) + 0.5 for _ in range(2 * gains))

    def forward(self, x):
        q, k, v = (f(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        if self.gains:
            q, k = q * self.gains[0], k * self.gains[1]
        mixed = (10 * q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Pair(nn.Module):
    """Two embeddings that are compared."""

    def __init__(self, compare):
        super().__init__()
        self.left, self.right, self.compare = nn.Linear(5, 6), nn.Linear(5, 6), compare

    def forward(self, x):
        return self.compare(self.left(x), self.right(x + 1))


def norm(x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True)


EXACT = {
    "normalize, root in an attribute, gain": Net(lambda m, x: F.normalize(x, dim=-1) * m.scale * m.gain),
    "normalize, root of a shape, gain": Net(lambda m, x: F.normalize(x, dim=-1) * m.gain * x.shape[-1] ** 0.5),
    "normalize, gain": Net(lambda m, x: F.normalize(x, dim=-1) * m.gain),
    "normalize": Net(lambda m, x: F.normalize(x, dim=-1)),
    "normalize along another axis": Net(lambda m, x: F.normalize(x[..., None], dim=1)[..., 0] * m.gain),
    "a norm that is scaled": Net(lambda m, x: x / (norm(x) / m.scale).clamp(min=1e-8) * m.gain),
    "linalg": Net(lambda m, x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)),
    "normalize, another nonlinearity": Net(lambda m, x: (F.normalize(x, dim=-1) * m.scale).relu() * m.gain),
    "cosine similarity": Pair(lambda a, b: F.cosine_similarity(a, b, dim=-1)),
    "contrastive": Pair(lambda a, b: (a / norm(a)) @ (b / norm(b)).T),
    "cosine attention": Attention(gains=False),
    "cosine attention with gains": Attention(gains=True),
}

INEXACT = {
    "an epsilon that is added": Net(lambda m, x: x / (norm(x) + 1.0)),
    "a norm among the features": Net(lambda m, x: torch.cat([x, norm(x)], -1), out=7),
    "a product with a norm": Net(lambda m, x: x * norm(x)),
    "a norm times something else": Net(lambda m, x: norm(x) * x),
    "a norm over something else": Net(lambda m, x: norm(x) / x.exp()),
    "rounding": Net(lambda m, x: torch.div(x, norm(x), rounding_mode="floor")),
    "another tensor": Net(lambda m, x: x.abs().sum(-1, keepdim=True) / norm(x) + x),
    "another order": Net(lambda m, x: x / x.norm(p=1, dim=-1, keepdim=True)),
    "an inverse": Net(lambda m, x: x * norm(x).reciprocal()),
    "a norm of everything": Net(lambda m, x: x / x.norm()),
    "a nonlinearity before the root of the width": Net(lambda m, x: F.normalize(x, dim=-1).exp()),
}


@pytest.fixture(autouse=True)
def fixed():
    torch.manual_seed(0)


def inner(structure):
    """The width in the middle."""
    return next(
        w for w in structure.widths.values() if any(p.parameter.endswith("weight") and not p.axis for p in w.incoming)
    )


def inputs(model, batch):
    return torch.randn(batch, *((7, 6) if isinstance(model, Attention) else (5,)), dtype=torch.float64)


@pytest.mark.parametrize("model", EXACT.values(), ids=EXACT.keys())
def test_equal_copies_leave_a_normalised_network_as_it_is(model):
    model = copy.deepcopy(model).double()
    example, others = inputs(model, 3), inputs(model, 4)
    before = model(others)
    structure = growkit.trace(model, example)
    grown = [w for w in structure.growable if not w.name.startswith("last")]
    assert any(w.uniform and "divides by a norm" in w.uniform for w in grown)
    for width in grown:
        growkit.apply(model, growkit.Widen(width.name, copies=range(width.size)), example=(example,))
        torch.testing.assert_close(model(others), before, rtol=1e-10, atol=1e-10)
    again = growkit.trace(model, example)
    assert [w.size for w in again.growable] == [2 * w.size for w in structure.growable]


@pytest.mark.parametrize("model", INEXACT.values(), ids=INEXACT.keys())
def test_other_uses_of_a_norm_are_refused(model):
    model = copy.deepcopy(model).double()
    width = growkit.trace(model, inputs(model, 3))["first"]
    if width.frozen is None:
        with pytest.raises(growkit.SurgeryError, match="changes what the model computes"):
            growkit.apply(model, growkit.Widen("first", copies=range(6)), example=(inputs(model, 3),))
    else:
        assert "units to a norm" in width.frozen or "share" in width.frozen


def test_an_attribute_that_holds_the_root_of_the_width_follows():
    model = copy.deepcopy(EXACT["normalize, root in an attribute, gain"]).double()
    growkit.apply(model, growkit.Widen("first", copies=range(6)), example=(inputs(model, 3),))
    assert model.scale == pytest.approx(12**0.5)


def test_a_norm_that_is_divided_is_no_divisor():
    model = INEXACT["a norm over something else"]
    assert "units to a norm" in growkit.trace(copy.deepcopy(model).double(), inputs(model, 3))["first"].frozen
