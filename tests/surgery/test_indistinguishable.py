"""A grown model is like one that was built in that size: no wrapper, no hook, nothing left of the surgery."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

import growkit


class Block(nn.Module):
    """Attention and a gated MLP, with sizes in attributes."""

    def __init__(self, width: int = 8, heads: int = 2, size: int = 3, hidden: int = 5) -> None:
        super().__init__()
        self.heads, self.size, self.scale = heads, size, size**-0.5
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * heads * size), nn.Linear(heads * size, width)
        self.up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, self.heads * self.size))
        value, gate = self.up(x).chunk(2, -1)
        return x + self.down(value * gate.sigmoid())


class Net(nn.Module):
    def __init__(self, width: int = 8, heads: int = 2, size: int = 3, hidden: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU())
        self.block, self.head = Block(width, heads, size, hidden), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x).transpose(1, 2)).mean(1))


X = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(0))
GROWN = {"width": 16, "heads": 3, "size": 5, "hidden": 9}


@pytest.fixture
def grown() -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    before = model(X)
    structure = growkit.trace(model, X)
    sizes = {width.size: width.name for width in structure.growable}
    edits = [
        growkit.Widen(sizes[8], range(8)),
        growkit.Widen(sizes[2], (0,)),
        growkit.Widen(sizes[3], (1, 2)),
        growkit.Widen(sizes[5], range(4)),
    ]
    growkit.apply(model, edits, example=(X,))
    assert torch.allclose(model(X), before, atol=1e-5)
    return model


def test_it_reads_like_one_that_was_built_in_that_size(grown):
    built = Net(**GROWN)
    assert repr(grown) == repr(built)
    assert {k: v.shape for k, v in grown.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}
    assert (grown.block.heads, grown.block.size, grown.block.scale) == (3, 5, built.block.scale)


def test_its_weights_load_into_one_that_was_built_in_that_size(grown):
    built = Net(**GROWN).eval()
    built.load_state_dict(grown.state_dict())
    assert torch.equal(built(X), grown(X))


def test_it_holds_nothing_but_plain_things(grown):
    for module in grown.modules():
        assert type(module).__module__.startswith(("torch.nn", __name__))
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert {type(value).__module__ for value in vars(module).values()} <= {"builtins", "collections"}
    for parameter in grown.parameters():
        assert type(parameter) is nn.Parameter
        assert parameter.is_leaf


def test_it_can_be_copied_pickled_and_saved(grown):
    buffer = io.BytesIO()
    torch.save(grown, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (copy.deepcopy(grown), pickle.loads(pickle.dumps(grown)), loaded):
        assert torch.equal(other(X), grown(X))


def test_it_can_be_compiled_as_one_graph(grown):
    compiled = torch.compile(grown, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(X), grown(X), atol=1e-6)


def test_it_can_be_exported(grown):
    exported = torch.export.export(grown, (X,))
    assert torch.allclose(exported.module()(X), grown(X), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_it_can_be_traced_by_jit(grown):
    traced = torch.jit.trace(grown, X)
    assert torch.allclose(traced(X), grown(X), atol=1e-6)
