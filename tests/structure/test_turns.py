"""What a model does after an answer that is not true stays between it and the trace."""

import functools
import logging
import sys
import warnings

import pytest
import torch
from torch import nn

import growkit

LENGTHS = [7, 8, 9]
X = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))


class Asks(nn.Module):
    """Asks about data in the middle of two layers."""

    def __init__(self, between):
        super().__init__()
        self.first, self.last, self.between = nn.Linear(3, 4), nn.Linear(4, 5), between

    def forward(self, x, *state):
        return self.last(self.between(x, self.first(x).sigmoid(), *state))


def first_of(between, *state):
    torch.manual_seed(0)
    return growkit.trace(Asks(between), X, *state)["first"]


def leaves(x, h):
    if h.isnan().any():
        sys.exit(1)
    return h


def stops_in_a_debugger(x, h):
    if h.amax() > 1e6:
        breakpoint()
    return h


def waits_for_somebody(x, h):
    if h.amax() > 1e6:
        input("continue?")
    return h


def shows_the_values(x, h):
    if not torch.isfinite(h).all():
        raise ValueError(f"bad values {h.detach().numpy()}")
    return h


def looks_for_the_values(x, h):
    if h.isnan().any():
        raise ValueError(f"no number at {h.isnan().nonzero().tolist()}")
    return h


def crops(x, h):
    while h.shape[1] != x.shape[1]:
        h = h[:, :-1]
    return h


def doubles(x, h):
    k = h
    while k.shape[1] != h.shape[1]:
        k = torch.cat([k, k], 1)
    return h


def halves(x, h):
    while not h.amax() < 1e9:
        h = h / 2 + torch.inf * 0
    return h


def counts(x, h):
    left = x.shape[1]
    while left < 1:
        left = left - 1
    return h


@pytest.mark.parametrize(
    "between",
    [
        leaves,
        stops_in_a_debugger,
        waits_for_somebody,
        shows_the_values,
        looks_for_the_values,
        crops,
        doubles,
        halves,
        counts,
    ],
)
def test_code_for_what_does_not_happen_ends_no_trace_and_freezes_nothing(between):
    assert first_of(between).frozen is None


def test_nobody_hears_of_what_does_not_happen(capsys, caplog):
    def complains(x, h):
        if h.amax() > 1e6:
            sys.stdout.write("too large")
            sys.stderr.write("too large")
            warnings.warn("too large", stacklevel=1)
            logging.getLogger("model").error("too large")
        return h

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first_of(complains).frozen is None
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
    assert logging.root.manager.disable == 0


def test_caches_keep_no_answers_that_are_not_true():
    @functools.cache
    def kind(length, most):
        return "long" if length > most else "short"

    table = {}

    def looks_up(x, h):
        if x.shape[1] not in table:
            table[x.shape[1]] = 2.0 if x.shape[1] > 8 else 1.0
        return h * table[x.shape[1]] * (2 if kind(x.shape[1], 8) == "long" else 1)

    first_of(looks_up)
    assert kind(6, 8) == "short"
    assert table == {6: 1.0}


def test_helpers_that_can_be_called_keep_nothing():
    class Scale:
        factor = None

        def __call__(self, x, h):
            if self.factor is None:
                self.factor = 2.0 if h.shape[1] > 8 else 1.0
            return h * self.factor

    scale = Scale()
    first_of(scale)
    assert scale.factor is None


def test_each_pass_finds_the_state_that_the_example_gave():
    lengths = []

    def remembers(x, h, past):
        past.append(h)
        lengths.append(len(past))
        keys = torch.cat(past, 1)
        return h + (keys[:, -4:] if keys.shape[1] > 8 else keys).mean(1, keepdim=True)

    past = []
    assert first_of(remembers, past).frozen is None
    assert past == []
    assert set(lengths) == {1}
    model = Asks(remembers)
    growkit.apply(model, growkit.Widen("first", [0]), example=(X, past))
    assert (model.last.in_features, past) == (5, [])


def test_questions_of_training_are_turned_in_training():
    class Trains(Asks):
        def forward(self, x):
            h = self.first(x).sigmoid()
            if self.training and x.amax() > 50:
                h = h / (1 + h.sum(-1, keepdim=True))
            return self.last(h)

    assert "aten.sum" in growkit.trace(Trains(None), X)["first"].frozen


ASKED = {
    "a flag": lambda x: (x > 50).any().item(),
    "a count of none": lambda x: (x > 50).sum().item() > 0,
    "the negative": lambda x: -x.amax().item() < -50,
    "a difference": lambda x: x.amax().item() - 1 > 50,
    "the absolute": lambda x: abs(x.amax().item()) > 50,
    "rounded": lambda x: round(x.amax().item(), 1) > 50,
    "a ratio": lambda x: 1 / x.amax().item() < 0.02,
    "equal": lambda x: not torch.equal(x.round().clamp(max=0) * 0, x * 0),
    "close": lambda x: not torch.allclose(x * 0, x, atol=50),
    "twice the length": lambda x: x.shape[1] * 2 > 16,
    "half the length": lambda x: x.shape[1] / 2 > 4,
    "whole parts": lambda x: x.shape[1] // 8,
    "a remainder": lambda x: x.shape[1] % 6,
    "what is missing": lambda x: (-x.shape[1]) % 6 > 0,
    "all entries": lambda x: x.numel() // x.shape[0] > 24,
    "a root": lambda x: x.shape[1] ** 0.5 > 2.6,
    "the other way round": lambda x: 8 / x.shape[1] < 1,
    "the distance": lambda x: abs(x.shape[1] - 6) > 0,
    "a bit": lambda x: x.shape[1] & 1,
    "one of several": lambda x: x.shape[1] in (7, 9),
    "the surplus": lambda x: max(x.shape[1] - 8, 0),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED.keys())
def test_questions_are_understood_however_they_are_put(ask):
    assert "aten.sum" in first_of(lambda x, h: h / (1 + h.sum(-1, keepdim=True)) if ask(x) else h).frozen


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: int(x.shape[1]) > 8,
        lambda x: len(x[0]) > 8,
        lambda x: x.split(8, 1)[1:],
        lambda x: x.shape[1] in LENGTHS,
        lambda x: {6: False, 7: True}[x.shape[1]],
    ],
    ids=["an integer", "a length", "the number of pieces", "a list", "a table"],
)
def test_what_is_not_understood_freezes_what_may_run_through_other_parameters(ask):
    class Two(Asks):
        def __init__(self):
            super().__init__(None)
            self.other = nn.Linear(4, 4)

        def forward(self, x):
            h = self.first(x)
            return self.last(self.other(h) if ask(x) else h)

    assert "may also run through 'other" in growkit.trace(Two(), X)["first"].frozen


def test_a_length_that_an_attribute_names_is_asked_for():
    class Length(Asks):
        def __init__(self):
            super().__init__(None)
            self.length = 6

        def forward(self, x):
            h = self.first(x).sigmoid()
            if x.shape[1] != self.length:
                h = h / (1 + h.sum(-1, keepdim=True))
            return self.last(h)

    assert "aten.sum" in growkit.trace(Length(), X)["first"].frozen


def test_questions_get_true_answers_in_passes_that_turn_others():
    def is_long(t):
        return t.shape[1] > 4

    class Trains(Asks):
        def __init__(self):
            super().__init__(None)
            self.other = nn.Linear(4, 5)

        def forward(self, x):
            if self.training and not is_long(x):
                raise ValueError("too short to train on")
            h = self.first(x)
            short = h[:, :2]
            return (self.other if self.training else self.last)(h if is_long(short) else h.relu())

    structure = growkit.trace(Trains(), X)
    assert {"other.weight", "last.weight"} <= structure.axes.keys()


def test_what_training_takes_is_not_measured_by_evaluation():
    class Trains(Asks):
        def __init__(self):
            super().__init__(None)
            self.other = nn.Linear(4, 5)

        def forward(self, x):
            h = self.first(x)
            if x.amax() > 50:
                h = h.relu()
            if not self.training:
                return self.last(h)
            for _ in range(1300):
                h = h + 0.0
            return self.other(h)

    assert "other.weight" in growkit.trace(Trains(), X).axes


def test_long_sums_of_lengths_cost_no_recursion():
    def counts(x, h):
        total = x.shape[1]
        for _ in range(1200):
            total = total + 1
        return h if total > 0 else -h

    assert first_of(counts).frozen is None
