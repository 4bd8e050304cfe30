"""Other inputs may take other paths than the example: what they would meet is refused, or follows."""

import pytest
import torch
from torch import nn
from zoo.catalogue import BY_NAME
from zoo.check import model_of

import growkit


class Net(nn.Module):
    """Two layers, and others that the example does not reach."""

    def __init__(self, forward):
        super().__init__()
        self.first, self.last, self.other = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 5)
        self.flat, self.many = nn.Linear(4 * 6, 5), nn.ModuleList(nn.Linear(4, 5) for _ in range(4))
        self.run = forward

    def forward(self, x, choice=None):
        return self.run(self, x, choice)


class Two(nn.Module):
    """Two layers, and nothing else."""

    def __init__(self, forward):
        super().__init__()
        self.first, self.last, self.run = nn.Linear(3, 4), nn.Linear(4, 5), forward

    def forward(self, x):
        return self.run(self, x, self.first(x))


UNREACHED = {
    "a length that does not fit": lambda m, x, c: (m.last if x.shape[1] != 9 else m.other)(
        m.first(x) + (0 if x.shape[1] != 9 else torch.ones(9, 1))
    ),
    "an optional input": lambda m, x, c: (m.last if c is None else m.other)(m.first(x)),
    "a list of numbers": lambda m, x, c: sum(m.many[int(i > 1e9)](m.first(x)) for i in x[0, 0].tolist()),
    "a flattened width": lambda m, x, c: (
        m.last(m.first(x)) if x.tolist()[0][0][0] < 100 else m.flat(m.first(x).flatten(1))
    ),
}
QUESTIONS = {
    "a value": lambda x, h: x.mean() > 100,
    "a number": lambda x, h: x.mean().item() > 100,
    "a number against a tensor": lambda x, h: x.mean().item() > 100 * torch.ones(()),
    "whether a number is zero": lambda x, h: bool((x > 100).sum().double().item()),
    "a number that is equal": lambda x, h: x.mean().item() == 100.0,
    "a whole number": lambda x, h: (x < 100).sum().item() < 3,
    "a length": lambda x, h: x.shape[1] > 8,
    "a length that is equal": lambda x, h: x.size(1) == 9,
    "two lengths": lambda x, h: len(x) >= x.shape[1],
    "two questions": lambda x, h: x.mean() > 100 and h.mean() < -100,
    "the second time": lambda x, h: [limit for limit in (-100, 100) if x.mean() > limit] == [100],
}
CUTS = {
    "chunks": lambda m, x, h: sum(m.last(c.amax(1)) for c in h.split(h.shape[-1], 1)),
    "twice as many": lambda m, x, h: m.last(h[:, -2 * h.shape[-1] :]).mean(1),
    "a number of chunks": lambda m, x, h: sum(m.last(c.amax(1)) for c in h[:, :1].chunk(h.shape[-1] // 2, 1)),
    "a length": lambda m, x, h: m.last(h) * (1 if x.abs().max() < 50 else len(h.transpose(0, 2))),
    "a ratio": lambda m, x, h: m.last(h) * (2 if x.shape[1] / h.shape[-1] > 1 else 1),
    "a window": lambda m, x, h: m.last(h[:, -h.shape[-1] :]).mean(1),
    "a band": lambda m, x, h: m.last(torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril(h.shape[-1]) @ h),
    "the top": lambda m, x, h: m.last(h.topk(min(h.shape[-1], h.shape[1]), 1)[0]).mean(1),
    "a pool": lambda m, x, h: m.last(nn.functional.max_pool1d(h.transpose(1, 2), h.shape[-1], ceil_mode=True).mean(-1)),
    "a comparison": lambda m, x, h: m.last(h) * (2 if x.shape[1] > h.shape[-1] else 1),
    "a comparison with values": lambda m, x, h: m.last(m.first(torch.where(x > h.shape[-1], -x, x))),
    "a remainder": lambda m, x, h: m.last(m.first(x % h.shape[-1])),
    "a bound from a layer": lambda m, x, h: m.last(m.first(x.clamp(max=m.first.out_features))),
    "a bound": lambda m, x, h: m.last(m.first(x.clamp_max(h.shape[-1]))),
}


@pytest.mark.parametrize("forward", UNREACHED.values(), ids=UNREACHED.keys())
def test_widths_that_may_run_through_what_was_not_reached_are_frozen(forward):
    torch.manual_seed(0)
    width = growkit.trace(Net(forward), torch.randn(2, 6, 3))["first"]
    assert "may also run through" in (width.frozen or "")
    assert width.advice == "trace the model on an example that uses it"


class Asks(nn.Module):
    """Does one thing or another, as it finds the data."""

    def __init__(self, question, then, otherwise):
        super().__init__()
        self.first, self.last, self.other = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 5)
        self.question, self.then, self.otherwise = question, then, otherwise

    def forward(self, x):
        h = self.first(x).sigmoid()
        return (self.then if self.question(x, h) else self.otherwise)(self, h)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_the_other_answer_is_traced_too(question):
    torch.manual_seed(0)
    model = Asks(question, lambda m, h: m.last(h / h.sum(-1, keepdim=True)), lambda m, h: m.last(h) + m.other(h))
    assert "aten.sum" in growkit.trace(model, torch.randn(2, 6, 3))["first"].frozen


def test_widths_follow_on_the_path_of_the_other_answer():
    torch.manual_seed(0)
    model = Asks(lambda x, h: x.mean() > 100, lambda m, h: m.last(h), lambda m, h: m.other(h)).double()
    x, other = torch.randn(2, 6, 3).double(), torch.randn(2, 6, 3).double() + 200
    before = model(other)
    growkit.apply(model, growkit.Widen("first", [0, 2]), example=(x,))
    assert model.last.in_features == model.other.in_features == 6
    torch.testing.assert_close(model(other), before, rtol=1e-10, atol=1e-10)


def test_each_module_asks_for_itself():
    torch.manual_seed(0)
    asks = [
        Asks(lambda x, h, limit=limit: x.mean() > limit, lambda m, h: m.last(h), lambda m, h: m.other(h))
        for limit in (-100, 100)
    ]
    structure = growkit.trace(Both(*asks), torch.randn(2, 3))
    assert {f"{one}.{two}.weight" for one in ("one", "two") for two in ("last", "other")} <= structure.axes.keys()


class Both(nn.Module):
    def __init__(self, one, two):
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x):
        return self.one(x) + self.two(x)


def fails(m, h):
    raise ValueError("no such data")


def loop(m, h):
    left = torch.tensor(3.0)
    while left > 0:
        left, h = left - 1, h.tanh()
    return m.last(h)


def never(m, h):
    while h.abs().mean() > 1e6:
        h = h / 2
    return m.last(h)


@pytest.mark.parametrize("question", [lambda x, h: x.mean() > 100, lambda x, h: x.shape[1] > 8])
@pytest.mark.parametrize("then", [fails, loop, never])
def test_another_answer_that_leads_nowhere_new_changes_nothing(question, then):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3)
    asked = growkit.trace(Asks(question, then, lambda m, h: m.last(h) + m.other(h)), x)
    plain = growkit.trace(Asks(lambda x, h: False, then, lambda m, h: m.last(h) + m.other(h)), x)
    assert repr(asked) == repr(plain)
    assert asked.flops() == plain.flops()
    assert asked.outputs == plain.outputs


def test_what_torch_asks_itself_is_no_question_of_the_model():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 6, batch_first=True), 2).eval()
    calls = []
    encoder.layers[0].linear1.register_forward_hook(lambda *_: calls.append(None))
    growkit.trace(encoder, torch.randn(2, 5, 8), mask=torch.ones(5, 5).tril() == 0)
    assert len(calls) == 1


def test_a_parameter_that_no_input_can_reach_freezes_nothing():
    class Dead(Net):
        def forward(self, x):
            return self.last(self.first(x))

    assert growkit.trace(Dead(None), torch.randn(2, 6, 3))["first"].frozen is None


def test_what_experts_share_is_frozen_and_no_more():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.side = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(3, 6)
            self.out = nn.Linear(6, 5)
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(3))

        def forward(self, x):
            h = self.first(x)
            for expert in [self.experts[int(n > 1e9)] for n in x[0].tolist()]:
                h = h + expert(h)
            return self.last(h) + self.out(self.side(x))

    structure = growkit.trace(Experts(), torch.randn(2, 3))
    assert "may also run through" in structure["first"].frozen
    assert structure["side"].frozen is None
    assert structure["experts.0.0"].frozen is None


def test_what_layers_beside_an_unreached_one_consist_of_is_frozen():
    class Entities(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value, self.other = (nn.Linear(4, 6) for _ in range(4))

        def forward(self, x, entities=None):
            q, k, v = (layer(x).unflatten(-1, (3, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
            if entities is not None:
                q = q + self.other(entities).unflatten(-1, (3, -1)).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(q, k, v).amax(2)

    structure = growkit.trace(Entities(), torch.randn(2, 7, 4))
    sizes = [w for w in structure.widths.values() if w.name.startswith("query")]
    assert sizes
    assert all(w.frozen for w in sizes)


@pytest.mark.parametrize("forward", CUTS.values(), ids=CUTS.keys())
def test_units_whose_number_cuts_or_bounds_data_are_frozen(forward):
    torch.manual_seed(0)
    assert growkit.trace(Two(forward), torch.randn(2, 3, 3))["first"].frozen


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_query_heads_of_one_key_follow_on_paths_that_the_example_does_not_take(name):
    pytest.importorskip("transformers")
    model = model_of(BY_NAME[f"hugging face {name}"])
    ids, mask = torch.randint(3, 11, (2, 7), generator=torch.Generator().manual_seed(0)), torch.ones(2, 7).long()
    mask[0, :3] = 0
    before = model(input_ids=ids, attention_mask=mask).logits
    widths = [w for w in growkit.trace(model, input_ids=ids).growable if "self_attn" in w.name]
    assert widths
    for width in widths:
        growkit.apply(model, growkit.Widen(width.name, range(width.size)), example={"input_ids": ids})
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, before, rtol=1e-9, atol=1e-9)
