"""Random small networks under random edits: what holds for the zoo holds for all."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import Concat, Residual
from torch import Tensor, nn, optim

from growkit.structure import Width, trace
from growkit.surgery import Change, Journal, Narrow, Widen, apply

TOLERANCE = 1e-10


# ------------------------------------------------------------------ networks

VECTOR_LAYERS = ["linear", "tanh", "relu", "batch norm", "layer norm", "residual", "concat", "joined"]
IMAGE_LAYERS = ["conv", "relu", "batch norm", "group norm", "residual", "concat", "depthwise", "grouped", "pool"]


def vector_layer(kind: str, n: int, size: int) -> tuple[list[nn.Module], int]:
    """The layers of one kind for `n` features, and how many features there are behind them."""
    simple = {"tanh": nn.Tanh, "relu": nn.LeakyReLU, "batch norm": lambda: nn.BatchNorm1d(n)}
    if kind in simple:
        return [simple[kind]()], n
    if kind == "layer norm":
        return [nn.LayerNorm(n)], n
    if kind == "residual":
        return [Residual(nn.Linear(n, size), nn.Tanh(), nn.Linear(size, n))], n
    if kind == "concat":
        return [Concat(nn.Linear(n, size), nn.Linear(n, size + 1))], 2 * size + 1
    if kind == "joined":
        return [Concat(None, nn.Linear(n, size))], n + size
    return [nn.Linear(n, size)], size


def image_layer(kind: str, n: int, size: int) -> tuple[list[nn.Module], int]:
    simple = {"relu": nn.LeakyReLU, "pool": lambda: nn.AvgPool2d(3, 1, 1), "batch norm": lambda: nn.BatchNorm2d(n)}
    if kind in simple:
        return [simple[kind]()], n
    if kind == "group norm":
        return [nn.GroupNorm(2 if n % 2 == 0 else 1, n)], n
    if kind == "residual":
        return [Residual(nn.Conv2d(n, size, 1), nn.Tanh(), nn.Conv2d(size, n, 3, padding=1))], n
    if kind == "concat":
        return [Concat(None, nn.Conv2d(n, size, 3, padding=1))], n + size
    if kind == "depthwise":
        return [nn.Conv2d(n, 2 * n, 3, padding=1, groups=n)], 2 * n
    if kind == "grouped" and n % 2 == 0:
        return [nn.Conv2d(n, 2 * size, 3, padding=1, groups=2)], 2 * size
    return [nn.Conv2d(n, size, 3, padding=1)], size


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A network in float64 with random weights, and the shape of one of its inputs."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    images = draw(st.booleans())
    build, kinds = (image_layer, IMAGE_LAYERS) if images else (vector_layer, VECTOR_LAYERS)
    layers, features = build("conv" if images else "linear", 3, 4)
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4)):
        if features <= 12:
            more, features = build(kind, features, draw(st.integers(2, 4)))
            layers += more
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * features, 2)] if images else [nn.Linear(features, 2)]
    model = nn.Sequential(*layers, nn.Tanh(), *head).double()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.5)
    return model, (3, 4, 4) if images else (3,)


# ------------------------------------------------------------------ edits


@st.composite
def widenings(draw: st.DrawFn, width: Width, *, copies_only: bool = False) -> Widen:
    everyone = list(range(width.size))
    if width.uniform:
        return Widen(width.name, draw(st.permutations(everyone)))
    copies = draw(st.lists(st.sampled_from(everyone), min_size=1, max_size=4))
    if width.copies_only:
        return Widen(width.name, copies)
    new = 0 if copies_only else draw(st.integers(0, 2))
    return Widen(width.name, copies, new, shares=draw(st.just(()) | some_shares(len(copies))))


def some_shares(count: int) -> st.SearchStrategy[list[float]]:
    """Any numbers of a size that leaves rounding alone, zero and negative ones included."""
    return st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=count, max_size=count)


def folding(widened: Widen, size: int) -> Narrow:
    return Narrow(widened.width, range(size, size + len(widened.copies)), into=widened.copies)


def compute(model: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    """What the model computes in either mode."""
    for training in (False, True):
        yield copy.deepcopy(model).train(training)(inputs).detach()


def far(before: Tensor, after: Tensor) -> float:
    return (before - after).abs().max().item() / max(before.abs().max().item(), 1.0)


def step(model: nn.Module, optimizer: optim.Optimizer, inputs: Tensor) -> None:
    optimizer.zero_grad()
    model(inputs).sin().square().mean().backward()
    optimizer.step()


def check_state(model: nn.Module, optimizer: optim.Optimizer) -> None:
    parameters = list(model.parameters())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in parameters}
    assert {id(p) for p in optimizer.state} <= {id(p) for p in parameters}
    for parameter in parameters:
        for value in optimizer.state[parameter].values():
            assert value is None or value.dim() == 0 or value.shape == parameter.shape


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


OPTIMIZERS = st.sampled_from(
    [
        lambda p: optim.SGD(p, 1e-3, momentum=0.9),
        lambda p: optim.AdamW(p, 1e-3, amsgrad=True),
        lambda p: optim.RMSprop(p, 1e-3, centered=True),
    ]
)


# ------------------------------------------------------------------ laws


@settings(max_examples=40)
@given(networks(), st.data())
def test_what_is_called_growable_can_be_widened(network, data):
    """In every way that its demands allow, in both modes, on inputs that the probe has not seen."""
    model, shape = network
    probe, fresh = (torch.randn(2, *shape).double(),), torch.randn(5, *shape).double()
    for width in trace(model, *probe).growable:
        edited = copy.deepcopy(model)
        apply(edited, data.draw(widenings(width)), example=probe)
        for before, after in zip(compute(model, fresh), compute(edited, fresh), strict=True):
            assert far(before, after) <= TOLERANCE


@settings(max_examples=40)
@given(networks(), st.data())
def test_widening_and_folding_back_is_the_identity(network, data):
    model, shape = network
    probe, old, text = (torch.randn(2, *shape).double(),), state(model), repr(model)
    for width in trace(model, *probe).growable:
        there = data.draw(widenings(width, copies_only=True))
        apply(model, there, example=probe)
        apply(model, folding(there, width.size), example=probe)
        for key, value in model.state_dict().items():
            assert torch.allclose(value, old[key], rtol=1e-12, atol=1e-13), key
    assert repr(model) == text


@settings(max_examples=30)
@given(networks(), OPTIMIZERS, st.data())
def test_a_life_of_edits_and_steps(network, make, data):
    """Every edit preserves the function, the optimizer follows, and the journal leads a fresh model to the end."""
    model, shape = network
    fresh_model = copy.deepcopy(model)
    optimizer, journal = make(model.parameters()), Journal()
    inputs, probe = torch.randn(6, *shape).double(), (torch.randn(2, *shape).double(),)
    for _ in range(3):
        step(model, optimizer, inputs)
        widths = trace(model, *probe).growable
        if not widths:
            break
        edit = data.draw(st.sampled_from(widths).flatmap(lambda width: widenings(width)))
        before = list(compute(model, inputs))
        change = apply(model, edit, example=probe, optimizers=[optimizer])
        journal.record(*change.edits)
        for old, new in zip(before, compute(model, inputs), strict=True):
            assert far(old, new) <= TOLERANCE
        check_state(model, optimizer)
        step(model, optimizer, inputs)
        check_state(model, optimizer)
    Journal.from_json(journal.to_json()).replay(fresh_model, example=probe)
    fresh_model.load_state_dict(model.state_dict(), strict=True)
    assert repr(fresh_model) == repr(model)
    assert torch.equal(fresh_model.eval()(inputs), model.eval()(inputs))


@settings(max_examples=30)
@given(networks(), st.data())
def test_carrying_the_old_parameters_gives_the_new_ones(network, data):
    model, shape = network
    probe, old = (torch.randn(2, *shape).double(),), state(model)
    widths = trace(model, *probe).growable
    if not widths:
        return
    edit = data.draw(st.sampled_from(widths).flatmap(lambda width: widenings(width, copies_only=True)))
    change: Change = apply(model, edit, example=probe)
    for key, value in model.state_dict().items():
        assert torch.equal(change.carry(old[key], parameter=key), value), key


@settings(max_examples=25)
@given(networks(), st.data())
def test_carried_gradients_are_gradients(network, data):
    model, shape = network
    model.eval()
    inputs, probe = torch.randn(5, *shape).double(), (torch.randn(2, *shape).double(),)
    widths = trace(model, *probe).growable
    if not widths:
        return
    edit = data.draw(st.sampled_from(widths).flatmap(lambda width: widenings(width, copies_only=True)))
    model(inputs).sin().sum().backward()
    apply(model, edit, example=probe)
    carried = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(inputs).sin().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(carried[name], parameter.grad, rtol=1e-8, atol=1e-10), name


@settings(max_examples=25)
@given(networks(), st.data())
def test_predicted_costs_come_true(network, data):
    model, shape = network
    probe = (torch.randn(2, *shape).double(),)
    structure = trace(model, *probe)
    if not structure.growable:
        return
    width = data.draw(st.sampled_from(structure.growable))
    edit = data.draw(widenings(width))
    sizes = {width.name: edit.new_size(width.size)}
    parameters, flops = structure.parameters(sizes), structure.flops(sizes)
    apply(model, edit, example=probe)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert trace(model, *probe).flops() == flops


@settings(max_examples=25)
@given(networks(), st.data())
def test_the_order_of_two_widenings_does_not_matter(network, data):
    model, shape = network
    probe = (torch.randn(2, *shape).double(),)
    widths = trace(model, *probe).growable
    if len(widths) < 2:
        return
    edits = [data.draw(widenings(width, copies_only=True)) for width in data.draw(st.permutations(widths))[:2]]
    results = []
    for order in ([edits[0], edits[1]], [edits[1], edits[0]], [edits]):
        edited = copy.deepcopy(model)
        for edit in order:
            apply(edited, edit, example=probe)
        results.append(edited.state_dict())
    for key, value in results[0].items():
        assert all(torch.allclose(other[key], value, rtol=1e-12, atol=1e-14) for other in results[1:]), key
