"""What must hold beyond the example: in training, on data of other sizes, and for whoever uses the model afterwards."""

from __future__ import annotations

import copy
import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from small_models import Apply, Residual
from torch import nn

import growkit
from growkit.structure import trace
from growkit.structure.questions import asks_for_mode, words_of

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Auxiliary(nn.Module):
    """A head that only training uses, behind a norm that has running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.head, self.aux = nn.Linear(4, 2), nn.Linear(4, 5)

    def forward(self, x):
        h = self.norm(self.body(x)).relu()
        return (self.head(h), self.aux(h)) if self.training else self.head(h)


def test_a_pass_in_training_mode_leaves_running_statistics(unchanged):
    model = Auxiliary()
    with unchanged(model):
        trace(model, X)


def test_outputs_of_training_are_outputs():
    structure = trace(Auxiliary(), X)
    assert structure["aux"].frozen == "is axis 1 of the model's output"
    assert [width.name for width in structure.growable] == ["body"]


def test_what_only_training_computes_counts():
    class Penalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.body(x).relu()
            return self.head(h) + (h.square().sum(1, keepdim=True) if self.training else 0)

    assert "sums over its units" in trace(Penalised(), X)["body"].frozen


@pytest.mark.parametrize(
    "view",
    [
        lambda h, x: h.permute(0, 2, 1).reshape(x.shape[0], x.shape[1], -1),
        lambda h, x: h.reshape(x.shape[0] * h.shape[2], x.shape[1]).reshape(x.shape[0], x.shape[1], -1),
        lambda h, x: h.view(x.shape[0], 2, -1, x.shape[1]).flatten(1, 2).transpose(1, 2),
    ],
)
def test_units_that_a_view_takes_apart_by_a_size_of_the_data_are_frozen(view):
    model = Apply(lambda m, x: m.last(view(m.first(x), x)), first=nn.Linear(3, 8), last=nn.Linear(8, 2))
    structure = trace(model, torch.randn(2, 4, 3))
    found = [w for w in structure.widths.values() if any(p.parameter == "first.bias" for p in w.incoming)]
    assert all("takes its units apart by a size of the data" in width.frozen for width in found)


def test_the_old_spectral_norm_is_frozen_like_the_new():
    with warnings.catch_warnings(action="ignore"):
        normed = nn.utils.spectral_norm(nn.Linear(4, 4))
        structure = trace(nn.Sequential(nn.Linear(3, 4), normed, nn.Linear(4, 2)), X)
    assert not structure.growable
    assert "power iteration in '1'" in structure["0"].frozen


def test_a_tensor_that_the_forward_pass_replaces_comes_back():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
            self.state = torch.zeros(4)

        def forward(self, x):
            h = self.body(x) + self.state
            self.state = h.detach().mean(0)
            return self.head(h)

    model = Stateful()
    before = model.state
    assert trace(model, X)["body"].size == 4
    assert model.state is before


@pytest.mark.filterwarnings("ignore")
def test_scripted_parts_are_traced_below_their_code():
    model = nn.Sequential(nn.Linear(3, 4), torch.jit.script(nn.Sequential(nn.ReLU(), nn.Linear(4, 5))), nn.Linear(5, 2))
    assert "0" in [width.name for width in trace(model, X).growable]


@pytest.mark.parametrize("halve", [lambda h: h.tensor_split(2, 1), lambda h: h.hsplit(2), lambda h: h.chunk(2, 1)])
def test_halves_by_number_stay_halves(halve):
    model = Apply(
        lambda m, x: m.a(halve(m.first(x))[0]) + m.b(halve(m.first(x))[1]),
        first=nn.Linear(3, 6),
        a=nn.Linear(3, 2),
        b=nn.Linear(3, 2),
    )
    (width,) = trace(model, X).growable
    assert width.size == 3
    before = model(X)
    growkit.apply(model, growkit.Widen(width.name, (0, 2)), example=(X,))
    assert torch.allclose(model(X), before, atol=1e-5)


def test_statistics_over_the_batch_average_what_is_there():
    def standardised(m, x):
        weight = m.second.weight
        flat = F.batch_norm(weight[None], None, None, training=True)[0]
        return m.head(F.linear(m.first(x).relu(), flat))

    model = Apply(standardised, first=nn.Linear(3, 4), second=nn.Linear(4, 5), head=nn.Linear(5, 2))
    assert trace(model, X)["first"].frozen


def test_entries_that_leave_torch_are_frozen():
    model = Apply(
        lambda m, x: m.last(torch.from_numpy(m.first(x).detach().numpy())), first=nn.Linear(3, 4), last=nn.Linear(4, 2)
    )
    assert "takes its entries out of torch" in trace(model, X)["first"].frozen


def test_a_size_that_is_used_as_a_number_freezes():
    model = Apply(lambda m, x: m.last(m.first(x)) / m.first(x).shape[1], first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    assert trace(model, X)["first"].frozen == "is used as a number in the forward pass of Apply"


def test_a_cache_is_state_and_no_output():
    class KeyCache:
        def __init__(self, keys):
            self.keys = keys

    model = Apply(lambda m, x: (m.last(h := m.first(x)), KeyCache(h)), first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    assert trace(model, X)["first"].frozen is None


def test_a_note_that_weights_were_rescaled_comes_back_with_them():
    class Rescales(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.done = nn.Linear(3, 4), nn.Linear(4, 2), False

        def forward(self, x):
            if not self.training and not self.done:
                self.head.weight.data.div_(2)
                self.done = True
            return self.head(self.body(x))

    model = Rescales().eval()
    weight = model.head.weight.detach().clone()
    trace(model, X)
    assert (model.done, torch.equal(model.head.weight, weight)) == (False, True)


def logged(function):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapped


def penalty(module, h):
    return squares(h) if module.training else 0


def squares(h):
    return h.square().sum(1, keepdim=True)


class Penalty:
    def of(self, module, h):
        return squares(h) if getattr(module, "training") else 0  # noqa: B009


class Penalised(nn.Module):
    """Adds in training what sums over units; subclasses ask for the mode in their own way."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = self.body(x)
        return self.head(h) + self.extra(h)


class Decorated(Penalised):
    @logged
    def extra(self, h):
        return squares(h) if self.training else 0


class WithoutGradients(Penalised):
    @torch.no_grad()
    def extra(self, h):
        return squares(h) if self.training else 0


class Nested(Penalised):
    def extra(self, h):
        def inner():
            return squares(h) if self.training else 0

        return inner()


class Helped(Penalised):
    def extra(self, h):
        return penalty(self, h)


class Delegating(Penalised):
    def __init__(self) -> None:
        super().__init__()
        self.penalty = Penalty()

    def extra(self, h):
        return self.penalty.of(self, h)


class Listing(Penalised):
    def __init__(self) -> None:
        super().__init__()
        self.penalties = [functools.partial(penalty, self)]

    def extra(self, h):
        return sum(extra(h) for extra in self.penalties)


class Answering(Penalised):
    noisy = property(lambda self: self.training)

    def extra(self, h):
        return squares(h) if self.noisy else 0


class ByName(Penalised):
    def extra(self, h):
        return squares(h) if getattr(self, "training") else 0  # noqa: B009


class WithGradients(Penalised):
    def extra(self, h):
        return squares(h) if torch.is_grad_enabled() else 0


class OfGradients(Penalised):
    def extra(self, h):
        return squares(h) if h.requires_grad else 0


class Flagged(Penalised):
    noisy = True

    def train(self, mode=True):
        self.noisy = mode
        return super().train(mode)

    def extra(self, h):
        return squares(h) if self.noisy else 0


class Exchanging(Penalised):
    def train(self, mode=True):
        self.extra = squares if mode else (lambda h: 0)
        return super().train(mode)


def hooked():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].register_forward_hook(lambda module, inputs, h: h + squares(h) if module.training else h)
    return model


ASKING = [Decorated, WithoutGradients, Nested, Helped, Delegating, Listing, Answering, ByName, WithGradients]
ASKING += [OfGradients, Flagged, Exchanging, hooked]


@pytest.mark.parametrize("build", ASKING)
def test_whatever_way_code_asks_for_the_mode_training_counts(build, unchanged):
    model = build().train()
    with unchanged(model):
        structure = trace(model, X)
    assert "with no weight that could share" in (structure.widths.get("body") or structure["0"]).frozen


@pytest.mark.filterwarnings("ignore")
def test_scripted_code_may_ask_for_the_mode():
    class Noisy(nn.Module):
        def forward(self, h):
            return h + h.square().sum(1, keepdim=True) if self.training else h

    structure = trace(nn.Sequential(nn.Linear(3, 4), torch.jit.script(Noisy()), nn.Linear(4, 2)), X)
    assert "with no weight that could share" in structure["0"].frozen


def test_layers_of_torch_ask_nothing():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.TransformerEncoderLayer(4, 2), nn.GRU(4, 4)]
    for model in (nn.Sequential(*layers), Residual(nn.Linear(4, 4))):
        assert not asks_for_mode(model, words_of(model))


def test_weights_that_the_switch_of_the_mode_merges_come_back(unchanged):
    class Merging(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.merged = nn.Linear(3, 4), nn.Linear(4, 2), False
            self.low = nn.Parameter(torch.ones(4, 1))

        def train(self, mode=True):
            if self.merged == mode:
                self.body.weight.data.add_(self.low @ self.low.T[:, :3], alpha=-1 if mode else 1)
                self.merged = not mode
            return super().train(mode)

        def forward(self, x):
            h = self.body(x)
            return self.head(h if self.merged else h + F.linear(x, self.low @ self.low.T[:, :3]))

    model = Merging()
    with unchanged(model):
        trace(model, X)


def test_a_pass_in_training_mode_leaves_no_graph_behind():
    class Remembering(Penalised):
        def extra(self, h):
            self.penalty = h.square().mean() if h.requires_grad else h.mean()
            return 0

    model = Remembering()
    trace(model, X)
    copy.deepcopy(model)


def test_what_training_would_have_used_freezes_where_training_wants_other_inputs():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.neck, self.head = nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(6, 2)
            self.aux = nn.Linear(4, 5)

        def forward(self, x, targets=None):
            h = self.body(x)
            y = self.head(self.neck(h))
            return F.cross_entropy(y, targets) + F.cross_entropy(self.aux(h), targets) if self.training else y

    structure = trace(Detector(), X)
    assert structure["body"].frozen == "may also run through 'aux.weight', which the model did not use on this example"
    assert structure["neck"].frozen is None
