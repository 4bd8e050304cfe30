"""Splitting: exact matrices, the law that they predict, and what is passed over."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from growth.stubs import Asks, Proposes, event, mlp, widen
from torch import Tensor, nn

import growkit
from growkit_plugins.splitting import Splitting, find_neurons, splitting_indices, splitting_matrices


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def data(
    shape: tuple[int, ...], outputs: tuple[int, ...], batches: int = 1, count: int = 9
) -> list[tuple[Tensor, Tensor]]:
    double = torch.float64
    return [
        (torch.randn(count, *shape, dtype=double), torch.randn(count, *outputs, dtype=double)) for _ in range(batches)
    ]


def settle(model: nn.Module) -> nn.Module:
    """Double precision, evaluation mode, and norms away from their trivial start."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias)
    return model.double().eval()


def found(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], **options) -> tuple[dict, dict[str, str]]:
    """Neurons by the name of their width, and the refusals."""
    structure = growkit.trace(model, batches[0][0])
    neurons, refused = find_neurons(model, structure, partial(squared_error, model), batches, **options)
    return {n.width: n for n in neurons}, refused


# ---------------------------------------------------------------- the matrix


def split_loss(head: nn.Sequential, tail: nn.Module, batches: Sequence, unit: int, shift: Tensor) -> Tensor:
    """The loss after neuron `unit` of the first layer of `head` became theta + shift and theta - shift, half each."""
    layer = head[0]
    size = layer.weight[unit].numel()

    def activations(inputs: Tensor, step: Tensor) -> Tensor:
        chosen = F.one_hot(torch.tensor(unit), len(layer.weight)).to(step)
        moved = {"weight": layer.weight + torch.einsum("o,i->oi", chosen, step[:size]).view_as(layer.weight)}
        if layer.bias is not None:
            moved["bias"] = layer.bias + chosen * step[size]
        return head[1:](torch.func.functional_call(layer, moved, (inputs,)))

    losses = [
        (tail((activations(inputs, shift) + activations(inputs, -shift)) / 2) - targets).square().mean()
        for inputs, targets in batches
    ]
    return torch.stack(losses).mean()


def by_autograd(head: nn.Sequential, tail: nn.Module, batches: Sequence, unit: int) -> Tensor:
    layer = head[0]
    zero = torch.zeros(layer.weight[unit].numel() + (layer.bias is not None), dtype=torch.float64)
    return torch.autograd.functional.hessian(partial(split_loss, head, tail, batches, unit), zero)


def assert_exact(head: nn.Sequential, tail: nn.Module, batches: Sequence) -> None:
    model = settle(nn.Sequential(head, tail))
    neurons, refused = found(model, batches)
    assert "0.0" in neurons, refused
    matrices = splitting_matrices(neurons["0.0"])
    assert neurons["0.0"].weight == "0.0.weight"
    assert (neurons["0.0"].bias is None) == (head[0].bias is None)
    for unit in range(len(matrices)):
        expected = by_autograd(head, tail, batches, unit)
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(matrices[unit], expected, rtol=1e-8, atol=1e-12)


# Even kernels make torch pad a copy of the input, which it points out.
even_kernel = pytest.mark.filterwarnings("ignore:Using padding='same'")

LAYERS: dict[str, tuple[Callable[[], Sequence[nn.Module]], tuple[int, ...], int]] = {
    # layers of the head, shape of the input, size of its flattened output
    "linear": (lambda: [nn.Linear(3, 4)], (3,), 4),
    "linear without bias": (lambda: [nn.Linear(3, 4, bias=False)], (3,), 4),
    "linear on sequences": (lambda: [nn.Linear(3, 4)], (5, 3), 20),
    "linear on grids": (lambda: [nn.Linear(3, 2)], (2, 2, 3), 8),
    "linear and norm": (lambda: [nn.Linear(3, 4), nn.BatchNorm1d(4)], (3,), 4),
    "conv1d": (lambda: [nn.Conv1d(2, 3, 3, stride=2, padding=1)], (2, 7), 12),
    "conv1d dilated": (lambda: [nn.Conv1d(2, 3, 2, dilation=3, bias=False)], (2, 7), 12),
    "conv2d": (lambda: [nn.Conv2d(2, 2, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1))], (2, 5, 6), 18),
    "conv2d same": (lambda: [nn.Conv2d(1, 2, (2, 4), padding="same", dilation=(3, 1))], (1, 4, 4), 32),
    "conv2d valid": (lambda: [nn.Conv2d(1, 2, 3, padding="valid")], (1, 4, 4), 8),
    "conv2d one by one": (lambda: [nn.Conv2d(3, 2, 1)], (3, 2, 2), 8),
    "conv3d": (lambda: [nn.Conv3d(1, 2, (2, 1, 3), stride=(1, 2, 1), padding=(0, 1, 1))], (1, 3, 2, 3), 24),
    "conv1d and norm": (lambda: [nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3)], (2, 5), 9),
    "conv2d and norm": (lambda: [nn.Conv2d(2, 2, 2, bias=False), nn.BatchNorm2d(2, eps=0.1)], (2, 3, 3), 8),
    "conv2d and a norm without weights": (lambda: [nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2, affine=False)], (2, 3, 3), 8),
    "conv3d and norm": (lambda: [nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2)], (1, 2, 3, 2), 4),
}


@even_kernel
@pytest.mark.parametrize("name", LAYERS)
def test_the_matrix_is_the_hessian_of_the_split_loss(name):
    layers, shape, size = LAYERS[name]
    head = nn.Sequential(*layers(), nn.Softplus())
    assert_exact(head, nn.Sequential(nn.Flatten(), nn.Linear(size, 2)), data(shape, (2,), batches=2))


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU("tanh"),
    "SiLU": nn.SiLU,
    "SiLU in place": lambda: nn.SiLU(inplace=True),
    "Mish": nn.Mish,
    "Mish in place": lambda: nn.Mish(inplace=True),
    "Softplus": lambda: nn.Softplus(beta=2.0),
    "ELU": lambda: nn.ELU(0.7),
    "ELU in place": lambda: nn.ELU(0.7, inplace=True),
    "CELU": lambda: nn.CELU(1.25),
    "CELU in place": lambda: nn.CELU(1.25, inplace=True),
    "SELU": nn.SELU,
    "SELU in place": lambda: nn.SELU(inplace=True),
    "LogSigmoid": nn.LogSigmoid,
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
    "Sigmoid": nn.Sigmoid,
    "F.silu": lambda: Call(F.silu),
    "F.elu": lambda: Call(lambda x: F.elu(x, 0.5)),
    "F.elu keywords": lambda: Call(lambda x: F.elu(input=x, alpha=0.5)),
    "F.elu in place": lambda: Call(lambda x: F.elu(x, alpha=0.5, inplace=True)),
    "F.softplus": lambda: Call(lambda x: F.softplus(x, beta=2.0)),
    "F.gelu": lambda: Call(lambda x: F.gelu(x, approximate="tanh")),
    "F.tanh": lambda: Call(F.tanh),
    "torch.tanh": lambda: Call(torch.tanh),
    "torch.sigmoid": lambda: Call(torch.sigmoid),
    "method tanh": lambda: Call(lambda x: x.tanh()),
    "method sigmoid": lambda: Call(lambda x: x.sigmoid()),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_any_smooth_activation(name):
    head = nn.Sequential(nn.Linear(3, 2), SMOOTH[name]())
    assert_exact(head, nn.Linear(2, 2), data((3,), (2,)))


SURROGATE: dict[str, tuple[Callable[[], nn.Module], float]] = {
    # activation, change of its slope at 0
    "ReLU": (nn.ReLU, 1.0),
    "ReLU in place": (lambda: nn.ReLU(inplace=True), 1.0),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), 0.8),
    "LeakyReLU in place": (lambda: nn.LeakyReLU(0.3, inplace=True), 0.7),
    "ReLU6": (nn.ReLU6, 1.0),
    "F.relu": (lambda: Call(F.relu), 1.0),
    "F.relu in place": (lambda: Call(lambda x: F.relu(x, inplace=True)), 1.0),
    "F.leaky_relu": (lambda: Call(lambda x: F.leaky_relu(x, 0.1)), 0.9),
    "F.relu6": (lambda: Call(F.relu6), 1.0),
    "torch.relu": (lambda: Call(torch.relu), 1.0),
    "torch.relu_": (lambda: Call(torch.relu_), 1.0),
    "method relu": (lambda: Call(lambda x: x.relu()), 1.0),
    "method relu_": (lambda: Call(lambda x: x.relu_()), 1.0),
}


@pytest.mark.parametrize("name", SURROGATE)
@pytest.mark.parametrize("beta", [3.0, 7.0])
def test_a_kink_is_replaced_by_that_of_a_softplus(name, beta):
    make, jump = SURROGATE[name]
    model = settle(nn.Sequential(nn.Linear(3, 4), make(), nn.Linear(4, 2)))
    ((inputs, targets),) = batches = data((3,), (2,))
    neurons, refused = found(model, batches, beta=beta)
    assert "0" in neurons, refused
    z = model[0](inputs).detach()
    a = model[1](z.clone()).detach().requires_grad_()
    (gradient,) = torch.autograd.grad((model[2](a) - targets).square().mean(), a)
    s = torch.sigmoid(beta * z)
    curvature = gradient * jump * beta * s * (1 - s)
    extended = torch.cat([inputs, torch.ones(len(inputs), 1).double()], 1)
    expected = torch.einsum("no,ni,nj->oij", curvature, extended, extended)
    torch.testing.assert_close(splitting_matrices(neurons["0"]), expected, rtol=1e-10, atol=1e-14)


def test_a_layer_that_is_called_twice_adds_up_what_its_calls_say():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.act, self.out = nn.Linear(2, 3), nn.Softplus(), nn.Linear(3, 1)

        def forward(self, x):
            return self.out(self.act(self.layer(x[:, :2]))) * self.out(self.act(self.layer(x[:, 2:])))

    law_holds(settle(Twice()), data((4,), (1,)), fraction=1.0)


def test_the_number_and_size_of_batches_do_not_change_a_mean():
    head = nn.Sequential(nn.Linear(3, 2), nn.Softplus())
    model = settle(nn.Sequential(head, nn.Linear(2, 2)))
    ((inputs, targets),) = data((3,), (2,), count=12)
    whole, _ = found(model, [(inputs, targets)])
    parts, _ = found(model, list(zip(inputs.split(4), targets.split(4), strict=True)))
    torch.testing.assert_close(splitting_matrices(whole["0.0"]), splitting_matrices(parts["0.0"]))


@pytest.mark.parametrize("count", [3, 5, 40])
def test_indices_are_the_smallest_eigenvalues_of_the_matrices(count):
    """Also where there are fewer samples than dimensions, and the search takes place in their span."""
    model = settle(mlp(6, 5, 2, activation=nn.SiLU))
    neurons = found(model, data((6,), (2,), count=count))[0]["0"]
    matrices = splitting_matrices(neurons)
    spectrum = torch.linalg.eigvalsh(matrices)
    values, vectors = splitting_indices(neurons, torch.Generator().manual_seed(0), 0.0)
    negative = spectrum[:, 0] < -1e-9
    assert negative.any()
    torch.testing.assert_close(values[negative], spectrum[negative, 0], rtol=1e-8, atol=1e-12)
    assert (values[~negative] > -1e-9).all()
    quotients = torch.einsum("oi,oij,oj->o", vectors, matrices, vectors)
    torch.testing.assert_close(quotients[negative], values[negative], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(vectors[negative].norm(dim=1), torch.ones(int(negative.sum())).double())


# ---------------------------------------------------------------- the law


def grow(model: nn.Module, batches: Sequence, plugin: growkit.Plugin, **options) -> growkit.Event | None:
    example = (batches[0][0][:2],)
    return event(model, plugin, example=example, loss=squared_error, batches=batches, **options)


def mean_loss(model: nn.Module, batches: Sequence) -> float:
    with torch.no_grad():
        return sum(squared_error(model, batch).item() for batch in batches) / len(batches)


def law_holds(model: nn.Module, batches: Sequence, *, fraction: float, rel: float = 0.01, **options) -> growkit.Event:
    """The loss falls by what the event predicts."""
    before = mean_loss(model, batches)
    happened = grow(model, batches, Splitting(fraction, step=3e-3, batches=len(batches), **options))
    fall = before - mean_loss(model, batches)
    assert happened.note["gain"] > 0
    assert fall == pytest.approx(happened.note["gain"], rel=rel)
    return happened


@even_kernel
@pytest.mark.parametrize("name", LAYERS)
def test_the_quadratic_law_through_a_real_event(name):
    layers, shape, size = LAYERS[name]
    model = settle(nn.Sequential(*layers(), nn.Softplus(), nn.Flatten(), nn.Linear(size, 2)))
    law_holds(model, data(shape, (2,), batches=2, count=12), fraction=0.01)


@pytest.mark.parametrize("name", ["GELU", "SiLU in place", "Tanh", "Sigmoid", "Mish", "Softsign", "F.softplus"])
def test_the_quadratic_law_for_other_activations(name):
    model = settle(nn.Sequential(nn.Linear(3, 4), SMOOTH[name](), nn.Linear(4, 2)))
    law_holds(model, data((3,), (2,)), fraction=0.01)


@pytest.mark.parametrize("step", [1e-1, 3e-2, 1e-2, 3e-3])
def test_the_error_of_the_law_is_of_second_order_in_the_step(step):
    torch.manual_seed(3)
    model = settle(mlp(3, 4, 2, activation=nn.Softplus))
    batches = data((3,), (2,))
    before = mean_loss(model, batches)
    happened = grow(model, batches, Splitting(0.01, step=step))
    ratio = (before - mean_loss(model, batches)) / happened.note["gain"]
    assert abs(ratio - 1) < 20 * step**2 + 1e-6


def test_splits_of_several_layers_add_up():
    """Every neuron with a negative index of every layer, at once: also halved directions are put to the test."""
    torch.manual_seed(1)
    model = settle(mlp(3, 5, 4, 3, 2, activation=nn.Softplus))
    happened = law_holds(model, data((3,), (2,), batches=2), fraction=1.0)
    assert {edit.width for edit in happened.change.edits} == {"0", "2", "4"}
    assert len(happened.candidates) >= 6


def test_splits_of_convolutions_with_norms_and_pools_add_up():
    model = settle(
        nn.Sequential(
            *(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.SiLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(16, 5), nn.Tanh()),
            nn.Linear(5, 2),
        )
    )
    happened = law_holds(model, data((1, 6, 6), (2,)), fraction=1.0)
    assert {edit.width for edit in happened.change.edits} == {"0", "4", "8"}


def test_two_splits_of_one_layer_fall_as_much_together_as_alone():
    batches = data((3,), (2,))

    def fall(count: int, skip: int) -> float:
        """Split `count` neurons of the ranking from place `skip` on."""
        torch.manual_seed(1)
        model = settle(mlp(3, 6, 2, activation=nn.Tanh))
        before = mean_loss(model, batches)
        splitting = Splitting(1.0, step=3e-3, tolerance=0.0)
        chosen = Asks(lambda context: splitting.growkit_propose(context)[skip : skip + count])
        assert len(grow(model, batches, chosen).candidates) == count
        return before - mean_loss(model, batches)

    first, second, both = fall(1, 0), fall(1, 1), fall(2, 0)
    assert both == pytest.approx(first + second, rel=0.01)
    assert first > second > 0.01 * first


def test_the_bias_moves_along():
    model = settle(mlp(3, 4, 2, activation=nn.Softplus))
    bias = model[0].bias.detach().clone()
    happened = grow(model, data((3,), (2,)), Splitting(0.01, step=0.01))
    (unit,) = happened.change.edits[0].copies
    assert model[0].bias[unit].item() != bias[unit].item()
    middle = (model[0].bias[unit] + model[0].bias[4]) / 2
    torch.testing.assert_close(middle.detach(), bias[unit])


@pytest.mark.parametrize("name", ["linear", "conv2d", "conv2d and norm", "linear and norm"])
def test_offspring_lie_at_plus_and_minus_the_step_and_share_the_outgoing_weights(name):
    layers, shape, size = LAYERS[name]
    model = settle(nn.Sequential(*layers(), nn.Softplus(), nn.Flatten(), nn.Linear(size, 2)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    happened = grow(model, data(shape, (2,)), Splitting(0.01, step=0.25))
    (unit,) = happened.change.edits[0].copies
    theta = torch.cat([before[key][unit].flatten() for key in ("0.weight", "0.bias") if key in before])
    after = model.state_dict()
    plus, minus = (
        torch.cat([after[key][row].flatten() for key in ("0.weight", "0.bias") if key in before]) for row in (unit, -1)
    )
    torch.testing.assert_close((plus + minus) / 2, theta)
    assert (plus - theta).norm().item() == pytest.approx(0.25)
    others = [row for row in range(len(before["0.weight"])) if row != unit]
    assert torch.equal(after["0.weight"][others], before["0.weight"][others])
    old = before[f"{len(model) - 1}.weight"].view(2, len(before["0.weight"]), -1)
    new = after[f"{len(model) - 1}.weight"].view(2, len(before["0.weight"]) + 1, -1)
    torch.testing.assert_close(new[:, unit], old[:, unit] / 2)
    torch.testing.assert_close(new[:, -1], old[:, unit] / 2)
    for key in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        if "norm" in name:
            assert torch.equal(after[key], torch.cat([before[key], before[key][unit : unit + 1]]))


def test_directions_of_the_next_layer_are_halved_and_doubled_with_its_columns():
    """Both layers split at once; the direction of the second was found for columns that are halves now."""
    model = settle(mlp(2, 2, 2, 1, activation=nn.Softplus))
    before = model[2].weight.detach().clone()
    direction = torch.tensor([[0.6, -0.8]]).double()
    offset = torch.cat([0.1 * direction, -0.1 * direction])
    batches = data((2,), (1,))
    grow(model, batches, Proposes(widen("0", 1), widen("2", 0, weight__2=offset)))
    halves = torch.tensor([0.6, -0.4, -0.4]).double()
    old = torch.stack([before[:, 0], before[:, 1] / 2, before[:, 1] / 2], 1)
    expected = torch.stack([old[0] + 0.1 * halves, old[1], old[0] - 0.1 * halves])
    torch.testing.assert_close(model[2].weight.detach(), expected)


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_the_function_is_preserved_as_the_step_goes_to_zero(fraction):
    model = settle(mlp(3, 5, 4, 2, activation=nn.ReLU))
    ((inputs, _),) = batches = data((3,), (2,))
    before = model(inputs)
    grow(model, batches, Splitting(fraction, step=1e-13))
    assert sum(p.numel() for p in model.parameters()) > 5 * 4 + 4 * 6 + 2 * 5
    torch.testing.assert_close(model(inputs), before, rtol=0, atol=1e-10)


# ---------------------------------------------------------------- which neurons


def test_the_share_is_one_of_all_neurons_of_all_layers_and_the_best_of_them():
    torch.manual_seed(0)
    model = settle(mlp(3, 6, 6, 2, activation=nn.Tanh))
    batches = data((3,), (2,))
    neurons, _ = found(model, batches)
    indices = torch.cat([torch.linalg.eigvalsh(splitting_matrices(n))[:, 0] for n in neurons.values()]).sort().values
    assert (indices < 0).sum() > 6
    for fraction, count in ((0.01, 1), (0.25, 3), (0.5, 6)):
        plugin = Splitting(fraction, step=1.0, tolerance=0.0)
        offered: list[growkit.Candidate] = []
        grow(
            settle(_copy(model)),
            batches,
            Asks(lambda context, p=plugin, o=offered: o.extend(p.growkit_propose(context))),
        )
        gains = torch.tensor([candidate.gain for candidate in offered]).double()
        torch.testing.assert_close(gains, -0.5 * indices[:count], rtol=1e-6, atol=0)


def _copy(model: nn.Module) -> nn.Module:
    copied = mlp(3, 6, 6, 2, activation=nn.Tanh)
    copied.load_state_dict(model.state_dict())
    return copied


def mean_output(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0]).mean()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("count", [3, 200])
@pytest.mark.parametrize("outgoing", [1.0, 0.0])
def test_a_stable_neuron_is_never_split(dtype, count, outgoing):
    """Convex activations with positive weight in the loss have no negative index, few samples make many zero ones."""
    model = mlp(20, 30, 1, activation=nn.Softplus).to(dtype)
    nn.init.constant_(model[2].weight, outgoing)
    inputs = torch.randn(count, 20, dtype=dtype)
    happened = event(*(model, Splitting(1.0)), example=(inputs[:2],), loss=mean_output, batches=[(inputs, inputs)] * 2)
    assert happened is None


def test_names_choose_the_widths():
    model = settle(mlp(3, 5, 4, 2, activation=nn.Softplus))
    happened = grow(model, data((3,), (2,)), Splitting(1.0, widths=["2"]))
    assert {edit.width for edit in happened.change.edits} == {"2"}


@pytest.mark.parametrize("options", [{"fraction": 0}, {"fraction": 1.1}, {"step": 0}, {"step": -1.0}, {"batches": 0}])
def test_settings_that_make_no_sense(options):
    with pytest.raises(ValueError, match="Splitting takes fraction"):
        Splitting(**options)


def test_the_same_seed_splits_the_same_neurons_in_the_same_directions():
    weights = []
    batches = data((3,), (2,))
    for noise in (5, 6):
        torch.manual_seed(0)
        model = settle(mlp(3, 6, 6, 2))
        torch.manual_seed(noise)
        grow(model, batches, Splitting(0.5))
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(map(torch.equal, *weights))


# ---------------------------------------------------------------- what is passed over


class Custom(nn.Module):
    """Layers by name, and a forward pass in one line."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def two(forward: Callable[..., Tensor], inner: int = 4, last: int = 4) -> Custom:
    return Custom(forward, a=nn.Linear(3, inner), b=nn.Linear(inner, 4), out=nn.Linear(last, 2))


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    # model, shape of the input, name of the width, reason
    "residual": (
        lambda: Custom(
            lambda m, x: m.out(m.a(x) + m.b(m.a(x)).tanh()), a=nn.Linear(3, 4), b=nn.Linear(4, 4), out=nn.Linear(4, 2)
        ),
        *((3,), "a", r"made by 2 layers \(a, b\)"),
    ),
    "no activation": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (3,), "0", "0 goes through linear"),
    "dropout first": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Tanh(), nn.Linear(4, 2)),
        *((3,), "0", "0 goes through dropout"),
    ),
    "unknown function": (
        lambda: nn.Sequential(nn.Linear(3, 4), Call(torch.sin), nn.Linear(4, 2)),
        *((3,), "0", "0 goes through sin"),
    ),
    "two activations of one output": (
        lambda: Custom(lambda m, x: m.out((z := m.a(x)).tanh() * z.sigmoid()), a=nn.Linear(3, 4), out=nn.Linear(4, 2)),
        *((3,), "a", "feeds more than its activation"),
    ),
    "output also used as it is": (
        lambda: Custom(lambda m, x: m.out(torch.tanh(z := m.a(x)) + z), a=nn.Linear(3, 4), out=nn.Linear(4, 2)),
        *((3,), "a", "feeds more than its activation"),
    ),
    "grouped convolution": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 1, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)),
        *((2, 3), None, "groups"),
    ),
    "padding that is not zeros": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)
        ),
        *((2, 3), "0", "another padding"),
    ),
    "depthwise convolution behind": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 1), nn.Tanh(), nn.Conv1d(4, 4, 1, groups=4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)
        ),
        *((2, 3), "0", r"made by 2 layers \(0, 2\)"),
    ),
    "transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 4, 1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)),
        *((2, 3), "0", r"ConvTranspose1d"),
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)),
        *((3,), "0", "one by one"),
    ),
    "no part in the loss": (
        lambda: Custom(
            lambda m, x: m.out(m.a(x).tanh()) + m.other(m.b(x).tanh()).detach(),
            a=nn.Linear(3, 4),
            b=nn.Linear(3, 4),
            other=nn.Linear(4, 2),
            out=nn.Linear(4, 2),
        ),
        *((3,), "b", "no part in the loss"),
    ),
}


SUSPECT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    # More than one curved function between a neuron and the sum over neurons: model, shape of the input.
    "output also used in a list": (
        lambda: Custom(
            lambda m, x: m.out(torch.stack([torch.tanh(z := m.a(x)), z]).square().sum(0)),
            a=nn.Linear(3, 4),
            out=nn.Linear(4, 2),
        ),
        (3,),
    ),
    "output also used before its norm": (
        lambda: Custom(
            lambda m, x: m.out(m.norm(z := m.a(x)).tanh() + z.sigmoid()),
            a=nn.Linear(3, 4),
            norm=nn.BatchNorm1d(4),
            out=nn.Linear(4, 2),
        ),
        (3,),
    ),
    "two activations in a row": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Tanh(), nn.Linear(4, 2)),
        (3,),
    ),
    "square of an activation": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Call(torch.square), nn.Linear(4, 2)),
        (3,),
    ),
    "activation times itself": (
        lambda: Custom(lambda m, x: m.out((h := m.a(x).tanh()) * h), a=nn.Linear(3, 4), out=nn.Linear(4, 2)),
        (3,),
    ),
    "norm over positions behind an activation": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 1), nn.Tanh(), nn.InstanceNorm1d(3), nn.Flatten(), nn.Linear(12, 2)),
        (2, 4),
    ),
}


@pytest.mark.parametrize("name", SUSPECT)
def test_a_neuron_with_a_second_curved_function_is_refused_or_obeys_the_law(name):
    make, shape = SUSPECT[name]
    model, batches = settle(make()), data(shape, (2,))
    neurons, _ = found(model, batches)
    if neurons:
        law_holds(model, batches, fraction=1.0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused_with_a_reason(name):
    make, shape, width, reason = REFUSED[name]
    model = settle(make())
    neurons, refused = found(model, data(shape, (2,)))
    texts = {width: refused.get(width, "")} if width else refused
    assert any(re.search(reason, text) for text in texts.values()), (list(neurons), refused)
    assert width not in neurons


def test_a_norm_that_follows_its_batch_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double().train()
    neurons, refused = found(model, data((3,), (2,)))
    assert not neurons
    assert "0 goes through batch_norm" in refused["0"]


def test_a_layer_that_was_not_called_is_refused():
    model = settle(
        Custom(
            lambda m, x: m.out(m.a(x).tanh()) + (m.b(x).tanh().sum() if m.both else 0),
            a=nn.Linear(3, 4),
            b=nn.Linear(3, 4),
            out=nn.Linear(4, 2),
        )
    )
    batches = data((3,), (2,))
    model.both = True
    structure = growkit.trace(model, batches[0][0])
    model.both = False
    neurons, refused = find_neurons(model, structure, partial(squared_error, model), batches)
    assert [n.width for n in neurons] == ["a"]
    assert "b" not in refused or "was not called" in refused["b"]


NEIGHBOURS: dict[str, Callable[[], nn.Module]] = {
    "a look at the shape": lambda: Custom(
        lambda m, x: m.out(z.tanh()) if (z := m.a(x)).shape[0] else x, a=nn.Linear(3, 4), out=nn.Linear(4, 2)
    ),
    "a look at the size and the device": lambda: Custom(
        lambda m, x: m.out((z := m.a(x)).tanh().to(z.device).view(z.size())), a=nn.Linear(3, 4), out=nn.Linear(4, 2)
    ),
    "a linear function of keywords elsewhere": lambda: Custom(
        lambda m, x: F.linear(input=m.a(x).tanh(), weight=m.out.weight, bias=m.out.bias),
        a=nn.Linear(3, 4),
        out=nn.Linear(4, 2),
    ),
    "dropout behind": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(), nn.Linear(4, 2)),
    "two consumers behind the activation": lambda: Custom(
        lambda m, x: m.out(h := m.a(x).tanh()) + m.b(h), a=nn.Linear(3, 4), b=nn.Linear(4, 2), out=nn.Linear(4, 2)
    ),
    "a frozen neighbour before": lambda: Custom(
        lambda m, x: m.out(m.a(m.b(x).tanh()).tanh()),
        a=nn.Linear(3, 4),
        b=nn.Linear(3, 3).requires_grad_(False),
        out=nn.Linear(4, 2),
    ),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_what_does_not_hinder(name):
    model = settle(NEIGHBOURS[name]())
    batches = data((3,), (2,))
    neurons, refused = found(model, batches)
    assert {"a", "0"} & neurons.keys(), refused
    law_holds(model, batches, fraction=1.0)


def test_a_model_with_frozen_layers_and_a_trainable_head_does_not_stop_the_run():
    """Fine-tuning: nothing before the head needs a gradient."""
    model = settle(mlp(3, 4, 4, 2))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    grow(model, data((3,), (2,)), Splitting(1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype):
    model = mlp(3, 4, 4, 2).to(dtype)
    batches = [(inputs.to(dtype), targets.to(dtype)) for inputs, targets in data((3,), (2,), count=20)]
    happened = grow(model, batches, Splitting(0.5))
    assert happened.note["gain"] > 0
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_widths_that_are_passed_over_are_logged(caplog):
    model = settle(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)))
    with caplog.at_level("INFO", logger="growkit_plugins.splitting.plugin"):
        grow(model, data((3,), (2,)), Splitting(1.0))
    assert "'0'" in caplog.text
    assert "goes through linear" in caplog.text
