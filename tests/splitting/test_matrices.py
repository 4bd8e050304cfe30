"""The matrices: what autograd says of the grown model, closed forms, batches and processes."""

from __future__ import annotations

import threading

import pytest
import torch
from growth.stubs import mlp
from splitting.helpers import assert_exact, data, data_for, dense, directions_of, matrices_of, neurons_of, settle
from splitting.layers import LAYERS, SMOOTH, SURROGATE, even_kernel
from splitting.networks import NETWORKS, hidden
from torch import nn

import growkit
from growkit_plugins.splitting import SplittingMatrices, matrices

COMPOSITE = [
    *("residual block that goes down", "depthwise separable block", "two layers of a gate", "one layer of a gate"),
    *("product of two layers", "squeeze and excite", "recurrent", "attention over activations", "dense block"),
    *("a layer along time", "a bilinear consumer", "a quotient behind a depthwise convolution", "norm over positions"),
    *("two activations in a row", "a layer that is called twice", "output also used in a list", "addmm"),
]


@even_kernel
@pytest.mark.parametrize("name", LAYERS)
def test_the_matrix_is_the_hessian_of_the_split_loss(name):
    layers, shape, size = LAYERS[name]
    model = settle(nn.Sequential(*layers(), nn.Softplus(), nn.Flatten(), nn.Linear(size, 2)))
    assert_exact(model, data(shape, (2,), batches=2), "0")


@pytest.mark.parametrize("name", SMOOTH)
def test_any_smooth_activation(name):
    model = settle(nn.Sequential(nn.Linear(3, 2), SMOOTH[name](), nn.Linear(2, 2)))
    assert_exact(model, data((3,), (2,)), "0")


@pytest.mark.parametrize("name", COMPOSITE)
def test_whatever_the_units_run_through(name):
    network = NETWORKS[name]
    model = settle(network.build())
    for width in network.widths:
        assert_exact(model, data_for(model, network.shape, count=4), width)


@pytest.mark.parametrize("name", SURROGATE)
@pytest.mark.parametrize("beta", [3.0, 7.0])
def test_a_kink_is_replaced_by_that_of_a_softplus(name, beta):
    make, jump = SURROGATE[name]
    model = settle(nn.Sequential(nn.Linear(3, 4), make(), nn.Linear(4, 2)))
    ((inputs, targets),) = batches = data((3,), (2,))
    found = matrices_of(model, batches, beta=beta)
    z = model[0](inputs).detach()
    a = model[1](z.clone()).detach().requires_grad_()
    (gradient,) = torch.autograd.grad((model[2](a) - targets).square().mean(), a)
    s = torch.sigmoid(beta * z)
    curvature = gradient * jump * beta * s * (1 - s)
    extended = torch.cat([inputs, torch.ones(len(inputs), 1).double()], 1)
    expected = torch.einsum("no,ni,nj->oij", curvature, extended, extended)
    torch.testing.assert_close(dense(found, "0"), expected, rtol=1e-10, atol=1e-14)


def test_kinks_behind_a_sum_of_layers_take_the_place_of_those_of_softplus():
    """A residual stream with ReLU: theta holds both layers, whose inputs stand side by side."""
    model = hidden(lambda m, x: m.out(torch.relu(m.a(x) + m.b(x.sin()))), b=nn.Linear(3, 4)).double()
    ((inputs, targets),) = batches = data((3,), (2,))
    found = matrices_of(model, batches, beta=4.0)
    z = (model.a(inputs) + model.b(inputs.sin())).detach()
    a = z.relu().requires_grad_()
    (gradient,) = torch.autograd.grad((model.out(a) - targets).square().mean(), a)
    s = torch.sigmoid(4 * z)
    one = torch.ones(len(inputs), 1).double()
    parts = {"a.weight": inputs, "a.bias": one, "b.weight": inputs.sin(), "b.bias": one}
    (neurons,) = found.neurons
    extended = torch.cat([parts[name] for name in neurons.rows], 1)
    expected = torch.einsum("no,ni,nj->oij", gradient * 4 * s * (1 - s), extended, extended)
    torch.testing.assert_close(dense(found, neurons.width), expected, rtol=1e-10, atol=1e-14)


def test_what_is_detached_counts_as_given_as_it_does_in_the_gradient():
    model = hidden(lambda m, x: m.out((z := m.a(x)).tanh() * z.detach())).double()
    ((inputs, targets),) = batches = data((3,), (2,))
    z = model.a(inputs).detach()
    a = (z.tanh() * z).requires_grad_()
    (gradient,) = torch.autograd.grad((model.out(a) - targets).square().mean(), a)
    curvature = gradient * z * -2 * z.tanh() * (1 - z.tanh() ** 2)
    extended = torch.cat([inputs, torch.ones(len(inputs), 1).double()], 1)
    expected = torch.einsum("no,ni,nj->oij", curvature, extended, extended)
    torch.testing.assert_close(dense(matrices_of(model, batches), "a"), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", COMPOSITE)
def test_products_are_linear_and_symmetric(name):
    network = NETWORKS[name]
    model = settle(network.build())
    found = matrices_of(model, data_for(model, network.shape))
    u, v = directions_of(found, seed=1), directions_of(found, seed=2)
    su, sv = found.multiply(u), found.multiply(v)
    both = found.multiply([a + 3 * b for a, b in zip(u, v, strict=True)])
    for a, b, sa, sb, sab in zip(u, v, su, sv, both, strict=True):
        torch.testing.assert_close((a * sb).sum(1), (b * sa).sum(1), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(sab, sa + 3 * sb, rtol=1e-9, atol=1e-12)


def test_what_is_not_asked_for_is_left_out():
    found = matrices_of(settle(mlp(3, 5, 4, 2)), data((3,), (2,)))
    u = directions_of(found)
    whole = found.multiply(u)
    first, second = found.multiply([None, u[1]])
    assert first is None
    torch.testing.assert_close(second, whole[1])


def test_packing_is_undone_by_unpacking_and_agrees_with_the_offsets_of_one_unit():
    model = settle(NETWORKS["one layer of a gate"].build())
    (neurons,) = matrices_of(model, data((3,), (2,))).neurons
    assert (neurons.units, neurons.dimension) == (4, 2 * 3 + 2)
    vectors = torch.randn(4, 8).double()
    tensors = neurons.unpack(vectors)
    torch.testing.assert_close(neurons.pack(tensors), vectors)
    part = neurons.offsets(vectors[None, 1:2])["a.weight"][0]
    torch.testing.assert_close(part, tensors["a.weight"][[1, 5]])


# ---------------------------------------------------------------- batches


def test_the_number_and_size_of_batches_do_not_change_a_mean():
    model = settle(mlp(3, 2, 2, activation=nn.Softplus))
    ((inputs, targets),) = data((3,), (2,), count=12)
    whole = matrices_of(model, [(inputs, targets)])
    parts = matrices_of(model, list(zip(inputs.split(4), targets.split(4), strict=True)))
    torch.testing.assert_close(dense(whole, "0"), dense(parts, "0"))


@pytest.mark.parametrize("name", ["perceptron", "depthwise separable block", "recurrent"])
def test_batches_that_do_not_fit_are_run_anew_with_the_same_result(name, monkeypatch):
    network = NETWORKS[name]
    model = settle(network.build())
    batches = data_for(model, network.shape, batches=3)
    kept = matrices_of(model, batches)
    monkeypatch.setattr(matrices, "_KEPT", 1)
    streamed = matrices_of(model, batches)
    assert len(kept._kept) == 3
    assert not streamed._kept
    vectors = directions_of(kept)
    for one, other in zip(kept.multiply(vectors), streamed.multiply(vectors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_no_more_is_kept_than_there_is_room_for(monkeypatch):
    """Room for two batches of four."""
    model = settle(mlp(3, 5, 2))
    batches = data((3,), (2,), batches=4)
    held = sum(curvature.nbytes for curvature in matrices_of(model, batches)._kept[0].values())
    monkeypatch.setattr(matrices, "_KEPT", 2 * held + 1)
    assert set(matrices_of(model, batches)._kept) == {0, 1}


def test_the_model_is_left_as_it_was(unchanged):
    model = settle(NETWORKS["residual block"].build())
    batches = data_for(model, (2, 3, 3))
    with unchanged(model):
        found = matrices_of(model, batches)
        found.multiply(directions_of(found))


# ---------------------------------------------------------------- processes


class Ranks:
    """Two threads that average tensors as two processes would; notes how often."""

    def __init__(self) -> None:
        self.barrier, self.tensors, self.calls = threading.Barrier(2, timeout=20), {}, [0, 0]

    def mean(self, rank: int):
        def mean(tensor: torch.Tensor) -> torch.Tensor:
            self.calls[rank] += 1
            self.tensors[rank] = tensor
            self.barrier.wait()
            averaged = (self.tensors[0] + self.tensors[1]) / 2
            self.barrier.wait()
            return averaged

        return mean

    def run(self, work) -> list:
        """Return what `work(rank, mean)` returns in each thread."""
        results: list = [None, None]

        def one(rank: int) -> None:
            results[rank] = work(rank, self.mean(rank))

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.calls[0] == self.calls[1] > 0
        return results


def halves(batches):
    ((inputs, targets),) = batches
    return [[(inputs[:4], targets[:4])], [(inputs[4:], targets[4:])]]


@pytest.mark.parametrize("name", ["perceptron", "depthwise separable block"])
def test_two_processes_with_half_a_batch_each_are_one_with_the_whole(name):
    network = NETWORKS[name]
    model = settle(network.build())
    whole_batch = data_for(model, network.shape, count=8)
    whole = matrices_of(model, whole_batch)
    shares = halves(whole_batch)
    copies = [settle(network.build()) for _ in range(2)]
    for copy in copies:
        copy.load_state_dict(model.state_dict())

    def work(rank: int, mean) -> list[torch.Tensor]:
        found = matrices_of(copies[rank], shares[rank], mean=mean)
        return found.multiply(directions_of(found))

    ours = whole.multiply(directions_of(whole))
    for theirs in Ranks().run(work):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_what_one_process_cannot_split_no_process_splits():
    """A branch on the data: in one process a layer is not called."""
    models = [
        hidden(lambda m, x: m.out(m.a(x).tanh()) + (m.back(m.b(x).tanh()) if m.both else 0)).double() for _ in "ab"
    ]
    for model in models:
        model.b, model.back = nn.Linear(3, 5).double(), nn.Linear(5, 2).double()
        model.both = True
    shares = halves(data((3,), (2,), count=8))

    def work(rank: int, mean) -> tuple[set[str], dict[str, str]]:
        model = models[rank]
        found = SplittingMatrices(model, structures[rank], lambda b: loss(model, b), shares[rank], mean=mean)
        return set(neurons_of(found)), found.refused

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    structures = [growkit.trace(model, shares[0][0][0][:2]) for model in models]
    models[1].both = False
    (first, why_first), (second, why_second) = Ranks().run(work)
    assert first == second == {"a"}
    assert why_first == {"b": "another process cannot split it"}
    assert why_second == {"b": "none of the layers that make its units was called"}


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
@pytest.mark.parametrize("name", ["perceptron", "two layers of a gate", "depthwise separable block"])
def test_other_precisions(name, dtype, rel):
    """Matrices come in single precision, near to those of the same weights in double."""
    network = NETWORKS[name]
    model = settle(network.build()).to(dtype)
    exact = settle(network.build())
    exact.load_state_dict(model.state_dict())
    batches = [(x.to(dtype), y.to(dtype)) for x, y in data_for(exact, network.shape)]
    ours, theirs = matrices_of(model, batches), matrices_of(exact, [(x.double(), y.double()) for x, y in batches])
    assert neurons_of(ours).keys() == neurons_of(theirs).keys() >= network.widths
    vectors = directions_of(ours)
    products = ours.multiply(vectors)
    expected = theirs.multiply([vector.double() for vector in vectors])
    for product, other in zip(products, expected, strict=True):
        assert product.dtype == torch.float32
        assert (product - other).norm() <= rel * other.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["perceptron", "residual block", "depthwise separable block", "recurrent", "glu"])
def test_on_a_gpu(name):
    network = NETWORKS[name]
    model = settle(network.build())
    batches = data_for(model, network.shape, batches=2)
    here = matrices_of(model, batches)
    vectors = directions_of(here)
    expected = here.multiply(vectors)
    there = matrices_of(model.cuda(), [(x.cuda(), y.cuda()) for x, y in batches])
    products = there.multiply([vector.cuda() for vector in vectors])
    for product, other in zip(products, expected, strict=True):
        assert product.is_cuda
        torch.testing.assert_close(product.cpu(), other, rtol=1e-8, atol=1e-11)


def test_under_autocast():
    """Mixed precision of the forward pass, as Lightning's plugin has it: layers compute in bfloat16."""
    model = mlp(6, 8, 8, 2, activation=nn.Softplus).float()
    batches = [(x.float(), y.float()) for x, y in data((6,), (2,), count=64)]

    def mixed(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(batch[0])
        return (outputs.float() - batch[1]).square().mean()

    ours, theirs = matrices_of(model, batches, mixed), matrices_of(model, batches)
    assert neurons_of(ours).keys() == neurons_of(theirs).keys() == {"0", "2"}
    vectors = directions_of(ours)
    for product, other in zip(ours.multiply(vectors), theirs.multiply(vectors), strict=True):
        assert (product - other).norm() <= 0.1 * other.norm()
