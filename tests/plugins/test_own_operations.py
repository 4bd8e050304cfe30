"""Plugins teach growkit operations and modules of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import growkit
from growkit import hookimpl
from growkit.plugins import Plugins
from growkit.structure import trace_example
from growkit.surgery import Operation, Widen


@torch.library.custom_op("growkit_tests::wring", mutates_args=())
def wring(x: Tensor) -> Tensor:
    return x.tanh() * 2


class Counted(nn.Module):
    """Holds units in a parameter, and their number twice: as it is, and as text that nothing reads."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(units))
        self.units, self.label = units, f"{units} units"

    def forward(self, x: Tensor) -> Tensor:
        return wring(x) * self.gain


class Rules(growkit.Plugin):
    @hookimpl
    def growkit_rules(self):
        def pointwise(tracer, operation, args, kwargs, out):
            for axis in tracer[args[0]]:
                tracer.constrain("copies", axis)
            tracer[out] = tracer[args[0]]

        return {torch.ops.growkit_tests.wring: pointwise}


class Labels(growkit.Plugin):
    def __init__(self, fails: bool = False) -> None:
        self.fails, self.seen = fails, []

    @hookimpl
    def growkit_resize_module(self, module, changes):
        self.seen.append((type(module).__name__, sorted(changes)))
        if isinstance(module, Counted):
            module.units = changes["gain"].new.shape[0]
            module.label = f"{module.units} units"
            module.extra = True
            if self.fails:
                raise RuntimeError("no")


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), Counted(4), nn.Linear(4, 2)).double()


def test_without_a_rule_the_operation_freezes_what_it_touches():
    assert "growkit_tests.wring in '1' (Counted) has no dimension rule" in growkit.trace(network(), X)["0"].frozen


def test_with_a_rule_units_grow_through_it():
    model = network()
    before = model(X)
    structure = trace_example(model, (X,), Plugins([Rules()]))
    Operation(structure, (X,)).perform(Widen("0", (0, 3, 3)))
    assert (model(X) - before).abs().max() <= 1e-12
    assert model[1].gain.shape == (7,)


def test_a_plugin_sets_what_repeats_sizes():
    model, labels = network(), Labels()
    Operation(trace_example(model, (X,), Plugins([Rules(), labels])), (X,)).perform(Widen("0", (0,)))
    assert (model[1].units, model[1].label) == (5, "5 units")
    assert labels.seen == [("Linear", ["bias", "weight"]), ("Counted", ["gain"]), ("Linear", ["weight"])]


def test_what_a_plugin_set_comes_back_if_it_fails():
    model = network()
    attributes = {k: v for k, v in vars(model[1]).items() if not k.startswith("_")}
    operation = Operation(trace_example(model, (X,), Plugins([Rules(), Labels(fails=True)])), (X,))
    with pytest.raises(growkit.PluginError, match=r"'Labels' .* failed in growkit_resize_module"):
        operation.perform(Widen("0", (0,)))
    assert {k: v for k, v in vars(model[1]).items() if not k.startswith("_")} == attributes
    assert model[1].gain.shape == (4,)


def test_growth_uses_the_rules_of_its_plugins():
    class Grow(Rules):
        @hookimpl
        def growkit_propose(self, context):
            return [growkit.Candidate(Widen(width.name, (0,))) for width in context.structure.growable]

    plugins = Plugins([Grow()])
    assert [w.name for w in trace_example(network(), (X,), plugins).growable] == ["0"]
