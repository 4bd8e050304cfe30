"""What plugins do behind the core's back is found out, named and undone."""

from __future__ import annotations

import weakref

import pytest
import torch
from growth.stubs import Asks, Follows, Proposes, Selects, event, has_four_parts, mlp, take_steps, widen
from torch import Tensor, nn

import growkit
from growkit.surgery import Narrow

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def live(context: growkit.Context) -> nn.Module:
    return context.structure.model


def write(context: growkit.Context) -> None:
    with torch.no_grad():
        live(context)[0].weight.mul_(2)


def write_past_autograd(context: growkit.Context) -> None:
    live(context)[0].weight.data.add_(1)


def write_buffers(context: growkit.Context) -> None:
    live(context)[2](torch.randn(4, 2, dtype=torch.float64))  # a norm in training mode


def exchange(context: growkit.Context) -> None:
    live(context)[0].weight = nn.Parameter(live(context)[0].weight.detach().clone())


def exchange_data(context: growkit.Context) -> None:
    live(context)[0].weight.data = torch.zeros(2, 3, dtype=torch.float64)


def add_a_module(context: growkit.Context) -> None:
    live(context).append(nn.Tanh())


def remove_a_parameter(context: growkit.Context) -> None:
    live(context)[0].bias = None


def train(context: growkit.Context) -> None:
    live(context)(X).sum().backward()


def drop_gradients(context: growkit.Context) -> None:
    live(context).zero_grad()


def apply_an_edit(context: growkit.Context) -> None:
    growkit.apply(live(context), growkit.Widen("0", [0]), example=(X,))


LOOKS = {
    "writes a weight": (write, r"'0\.weight' was written to"),
    "writes past autograd": (write_past_autograd, r"'0\.weight' was written to"),
    "writes buffers": (write_buffers, r"'2\.running_mean' was written to"),
    "exchanges a parameter": (exchange, r"'0\.weight' was changed"),
    "exchanges the data of one": (exchange_data, r"'0\.weight' was written to"),
    "adds a module": (add_a_module, r"'5' was added or removed"),
    "removes a parameter": (remove_a_parameter, r"'0\.bias' was added or removed"),
    "trains": (train, r"the gradient of '0\.weight' was changed"),
    "drops gradients": (drop_gradients, r"the gradient of '0\.weight' was changed"),
    "applies an edit": (apply_an_edit, r"'0\.weight' was changed"),
}


def network() -> nn.Module:
    model = mlp(3, 2, 2, 1)
    model[2] = nn.BatchNorm1d(2).double()
    return model


@pytest.mark.parametrize("hook", ["growkit_propose", "growkit_select"])
@pytest.mark.parametrize(("act", "seen"), LOOKS.values(), ids=LOOKS)
def test_the_live_model_is_left_alone_while_plugins_look(act, seen, hook, unchanged):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    take_steps(model, optimizer, X)

    def ask(context):
        act(context)
        return [widen("0", 0)]

    if hook == "growkit_propose":
        plugins = [Asks(ask, name="culprit")]
    else:
        chosen = lambda candidates, budget, context: ask(context) and candidates  # noqa: E731
        plugins = [Proposes(widen("0", 0)), Selects(chosen, name="culprit")]
    with unchanged(model, optimizer), pytest.raises(growkit.PluginError, match=seen) as caught:
        event(model, *plugins, example=(X,), optimizers=[optimizer])
    assert caught.value.what == (
        f"plugin 'culprit' (this program) failed in {hook}: the live model was changed behind the core's back"
    )
    assert has_four_parts(caught.value)
    assert event(model, Proposes(widen("0", 0)), example=(X,), optimizers=[optimizer]) is not None


def rate(optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["lr"] = 1.0


def moments(optimizer: torch.optim.Optimizer) -> None:
    next(iter(optimizer.state.values()))["exp_avg"].zero_()


def forget(optimizer: torch.optim.Optimizer) -> None:
    optimizer.state.clear()


def add(optimizer: torch.optim.Optimizer) -> None:
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def reorder(optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["params"].reverse()


@pytest.mark.parametrize("act", [rate, moments, forget, add, reorder])
@pytest.mark.parametrize("late", [False, True], ids=["while it looks", "after the event"])
def test_optimizers_are_left_alone(act, late, unchanged):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    take_steps(model, optimizer, X)
    look = Asks(lambda context: act(optimizer) or [], name="culprit")
    follow = Follows(lambda happened, model: act(optimizer), name="culprit")
    plugins = [Proposes(widen("0", 0)), follow if late else look]
    with unchanged(model, optimizer), pytest.raises(growkit.PluginError, match="an optimizer was changed"):
        event(model, *plugins, example=(X,), optimizers=[optimizer])


def test_after_an_event_values_may_be_written_but_not_the_structure(unchanged):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    take_steps(model, optimizer, X)

    def scale(happened: growkit.Event, grown: nn.Module) -> None:
        with torch.no_grad():
            grown[0].weight.mul_(2)

    before = model[0].weight.detach().clone()
    event(model, Proposes(widen("0", 0)), Follows(scale), example=(X,), optimizers=[optimizer])
    assert torch.equal(model[0].weight[:2], 2 * before)

    def exchange(happened: growkit.Event, grown: nn.Module) -> None:
        grown[0].bias = nn.Parameter(grown[0].bias.detach().clone())

    with unchanged(model, optimizer), pytest.raises(growkit.PluginError, match=r"'0\.bias' was changed"):
        event(model, Proposes(widen("0", 0)), Follows(exchange), example=(X,), optimizers=[optimizer])


def test_a_hook_that_changes_the_model_and_then_raises_is_undone(unchanged):
    model = network()

    def ask(context):
        write(context)
        raise ZeroDivisionError("oh")

    with unchanged(model), pytest.raises(growkit.PluginError, match="ZeroDivisionError: oh"):
        event(model, Asks(ask), example=(X,))


def test_the_private_copy_may_be_broken():
    def ask(context):
        context.model[0].weight.data.zero_()
        context.loss(X).backward()
        context.model.append(nn.Tanh())
        return [widen("0", 0)]

    assert event(network(), Asks(ask), example=(X,)) is not None


class Keeps(growkit.Plugin):
    """Keeps something of the live model from one event to the next."""

    def __init__(self, keep) -> None:
        self.keep, self.kept = keep, None

    @growkit.hookimpl
    def growkit_propose(self, context):
        self.kept = self.keep(live(context))
        return [widen("0", 0)]


STALE = {
    "a parameter": lambda model: model[0].weight,
    "in a list": lambda model: list(model.parameters()),
    "as a key": lambda model: {parameter: 1.0 for parameter in model.parameters()},
    "in an optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "deep inside": lambda model: {"all": [{"first": (model[0].weight, 1)}]},
}


@pytest.mark.parametrize("keep", STALE.values(), ids=STALE)
def test_who_hangs_on_to_old_parameters_is_named(keep, unchanged):
    model = network()
    with unchanged(model), pytest.raises(growkit.PluginError, match=r"'Keeps' .* hangs on to a parameter") as caught:
        event(model, Keeps(keep), example=(X,))
    assert has_four_parts(caught.value)
    assert "the old '0.weight'" in caught.value.seen


@pytest.mark.parametrize(
    "keep",
    [
        lambda model: model,
        lambda model: model[4].bias,
        lambda model: [name for name, _ in model.named_parameters()],
        lambda model: model[0].weight.detach().clone(),
        lambda model: weakref.ref(model[0].weight),
    ],
    ids=["the model", "what stays", "names", "a copy", "a weak reference"],
)
def test_who_does_not_is_not(keep):
    assert event(network(), Keeps(keep), example=(X,)) is not None


def test_who_lets_go_in_time_is_not_named():
    class LetsGo(Keeps):
        @growkit.hookimpl
        def growkit_grown(self, event, model):
            self.kept = self.keep(model)

    plugin = LetsGo(lambda model: model[0].weight)
    model = network()
    assert event(model, plugin, example=(X,)) is not None
    assert plugin.kept is model[0].weight


def test_watching_leaves_no_trace_in_what_is_proposed():
    """A removal, a gradient, a second derivative: all as without a watch."""

    def ask(context):
        loss = context.loss(X)
        (gradient,) = torch.autograd.grad(loss, context.model[0].weight, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), context.model[0].weight)
        seen.append(second)
        return [growkit.Candidate(Narrow("0", remove=(1,), into=(0,)))]

    seen: list[Tensor] = []
    model = mlp(3, 2, 2, 1)
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[0]
        model[0].bias[1] = model[0].bias[0]
    loss = model(X).square().mean()
    (gradient,) = torch.autograd.grad(loss, model[0].weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), model[0].weight)
    assert event(model, Asks(ask), example=(X,)) is not None
    assert torch.equal(seen[0], second)
    assert model[0].out_features == 1
