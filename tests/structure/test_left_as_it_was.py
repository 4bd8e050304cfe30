"""A trace and an edit leave no trace of their passes in a model, wherever its code keeps things."""

import copy
from functools import cached_property
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import growkit


class Keeps(nn.Module):
    """Two layers, between which something is kept."""

    def __init__(self):
        super().__init__()
        self.first, self.table, self.last = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 5)
        self.register_buffer("places", torch.randn(1, 2))
        self.register_buffer("done", torch.tensor(False))
        self.shift, self.scale = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(4))
        self.cache, self.object, self.list, self.held, self.flag = {}, SimpleNamespace(value=None), [], None, False
        self.dice = torch.Generator().manual_seed(3)

    def forward(self, x):
        return self.last((self.first(x) + self.kept(x)).relu())

    def worked_out(self):
        return self.table(self.places).detach()


class Dictionary(Keeps):
    def kept(self, x):
        return self.cache.setdefault("table", self.worked_out()) if not self.cache else self.cache["table"]


class Attribute(Keeps):
    def kept(self, x):
        if self.held is None:
            self.held = self.worked_out()
        return self.held


class Object(Keeps):
    def kept(self, x):
        if self.object.value is None:
            self.object.value = self.worked_out()
        return self.object.value


class List(Keeps):
    def kept(self, x):
        if not self.list:
            self.list.append(self.worked_out())
        return self.list[0]


class Property(Keeps):
    @cached_property
    def once(self):
        return self.worked_out()

    def kept(self, x):
        return self.once


OUTSIDE: dict[int, torch.Tensor] = {}


class Outside(Keeps):
    """What is kept outside of the model stays, and has to be right."""

    def kept(self, x):
        if id(self) not in OUTSIDE:
            OUTSIDE[id(self)] = self.worked_out()
        return OUTSIDE[id(self)]


class InitialisedByData(Keeps):
    def kept(self, x):
        h = self.first(x)
        if not self.done:
            self.shift.data, self.scale.data = -h.mean(0), 1 / (h.std(0) + 1e-6)
            self.done.fill_(True)
        return (h + self.shift) * self.scale


class InitialisedByDataWithAFlag(Keeps):
    def kept(self, x):
        h = self.first(x)
        if not self.flag:
            self.shift.data, self.flag = -h.mean(0), True
        return h + self.shift


class MaxNorm(Keeps):
    def kept(self, x):
        self.first.weight.data = torch.renorm(self.first.weight.data, 2, 0, 0.1)
        return self.first(x)


class Replaced(Keeps):
    def kept(self, x):
        h = self.first(x)
        self.shift = nn.Parameter(0.9 * self.shift + h.mean(0).detach())
        return h


class Momentum(Keeps):
    def kept(self, x):
        if self.training:
            torch._foreach_mul_([self.shift.data, self.scale.data], 0.9)
            torch.add(self.shift.detach(), 1.0, out=self.shift.data)
        return self.first(x) * self.scale + self.shift


class Dice(Keeps):
    def kept(self, x):
        return torch.rand(len(x), 1, generator=self.dice) + 0 * self.first(x)


KINDS = [Dictionary, Attribute, Object, List, Property, Outside, InitialisedByData, InitialisedByDataWithAFlag, MaxNorm]
KINDS += [Replaced, Momentum, Dice]


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_leaves_everything_as_it_was(kind):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(8, 3)
    twin = copy.deepcopy(model)
    parameters, keys = dict(model.named_parameters()), set(vars(model))
    growkit.trace(model, x)
    assert set(vars(model)) == keys
    assert all(now is parameters[name] for name, now in model.named_parameters())
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)
    torch.testing.assert_close(model.eval()(x), twin.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [Dictionary, Attribute, Object, List, Property])
def test_an_edit_leaves_no_stale_cache(kind):
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(8, 3).double()
    before = copy.deepcopy(model)(x)
    widths = growkit.trace(model, x).growable
    assert widths
    for width in widths:
        growkit.apply(model, growkit.Widen(width.name, (0,)), example=(x,))
    torch.testing.assert_close(model(x), before)
