"""Stand-ins for results look like the results, and nobody is misled by their zeros."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import growkit
from growkit.structure.hollow import hollow, passed_on
from growkit.structure.trace import trace_model

aten = torch.ops.aten


def check(packet, *args):
    """The stand-in is like the result; where there is no result, there is no stand-in."""
    try:
        result = packet(*args)
    except RuntimeError:
        assert hollow(packet, args) is None
        return
    stand_in = hollow(packet, args)
    assert stand_in is not None
    assert (stand_in.shape, stand_in.dtype, stand_in.stride()) == (result.shape, result.dtype, result.stride())


@given(st.data())
def test_the_stand_in_of_a_convolution_has_its_shape(data):
    small = st.integers(1, 3)
    dims, groups, transposed = data.draw(small), data.draw(small), data.draw(st.booleans())
    stride, dilation, kernel = (data.draw(st.lists(small, min_size=dims, max_size=dims)) for _ in range(3))
    padding, output_padding = (data.draw(st.lists(st.integers(0, 2), min_size=dims, max_size=dims)) for _ in range(2))
    size = data.draw(st.lists(st.integers(1, 7), min_size=dims, max_size=dims))
    incoming, outgoing = data.draw(small) * groups, data.draw(small) * groups
    told = data.draw(st.sampled_from([incoming, incoming, incoming + 1]))
    weight = (incoming, outgoing // groups) if transposed else (outgoing, incoming // groups)
    bias = data.draw(st.sampled_from([None, torch.randn(outgoing), torch.randn(outgoing + 1)]))
    if not transposed:
        output_padding = [0] * dims
    check(
        aten.convolution,
        torch.randn(data.draw(small), told, *size),
        torch.randn(*weight, *kernel),
        *(bias, stride, padding, dilation, transposed, output_padding, groups),
    )


@given(st.lists(st.integers(1, 3), min_size=5, max_size=5))
def test_the_stand_in_of_a_product_has_its_shape(sizes):
    b, n, k, m, other = sizes
    for inner in (k, other):
        check(aten.mm, torch.randn(n, k), torch.randn(inner, m))
        check(aten.bmm, torch.randn(b, n, k), torch.randn(b, inner, m))
    for shape in ((m,), (1, m), (n, m), (other,)):
        check(aten.addmm, torch.randn(shape), torch.randn(n, k), torch.randn(k, m))
        check(aten.baddbmm, torch.randn(shape), torch.randn(b, n, k), torch.randn(b, k, m))


UNARY = (aten.relu, aten.gelu, aten.hardswish, aten.clone, aten.relu_, aten.silu_)
BINARY = (aten.add, aten.mul, aten.add_, aten.div_)
SHAPE = st.lists(st.integers(1, 3), max_size=3)


@given(st.sampled_from(UNARY), SHAPE)
def test_a_stand_in_passes_through_operations_on_each_entry(packet, shape):
    x = torch.zeros(shape)
    assert passed_on(packet, (x,)).shape == packet(x.clone()).shape
    assert (passed_on(packet, (x,)) is x) == (packet(x) is x)


@given(
    st.sampled_from(BINARY), SHAPE, st.one_of(SHAPE, st.floats(1, 2)), st.sampled_from([torch.float32, torch.float64])
)
def test_a_stand_in_meets_another_operand_only_as_the_operation_would(packet, shape, other, dtype):
    x, y = torch.zeros(shape), other if isinstance(other, float) else torch.ones(other, dtype=dtype)
    try:
        result = packet(x.clone(), y)
    except RuntimeError:
        assert passed_on(packet, (x, y)) is None
        return
    through = passed_on(packet, (x, y))
    if through is None:
        assert y.dtype != x.dtype or result.shape != x.shape
    else:
        assert (through.shape, through.dtype, through.stride()) == (result.shape, result.dtype, result.stride())


@torch.library.custom_op("growkit_tests::doubled_if_positive", mutates_args=())
def doubled_if_positive(x: Tensor) -> Tensor:
    """Looks at values where no dispatcher sees it."""
    return torch.cat([x, x], dim=1) if x.amax() > 0 else x.clone()


class Branches(nn.Module):
    def __init__(self, looks):
        super().__init__()
        self.looks = looks
        self.first, self.yes, self.no = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        nn.init.constant_(self.first.bias, 10.0)

    def forward(self, x):
        h = self.first(x)
        return self.yes(h) if self.looks(h) else self.no(h)


def swallowing(h):
    try:
        return bool((h > 0).any())
    except Exception:
        return False


LOOKS = {
    "item": lambda h: h.sum().item() > 0,
    "bool": lambda h: (h > 0).any(),
    "an exception is swallowed": swallowing,
    "nonzero": lambda h: len((h > 0).nonzero()) > 0,
    "mask": lambda h: len(h[h > 0]) > 0,
    "equal": lambda h: not torch.equal(h, torch.zeros_like(h)),
    "numpy": lambda h: h.detach().numpy().sum() > 0,
    "list": lambda h: h.tolist()[0][0] > 0,
    "written into another tensor": lambda h: torch.zeros(h.shape).copy_(h).sum() > 0,
    "custom operation": lambda h: doubled_if_positive(h.detach()).shape[1] == 8,
}


@pytest.mark.parametrize("looks", LOOKS.values(), ids=LOOKS.keys())
def test_a_model_that_looks_at_values_is_traced_with_them(looks):
    tracer = trace_model(Branches(looks), (torch.rand(2, 3),))
    reached = {name for name, tensor in tracer.tensors.items() if id(tensor) in tracer.reached}
    assert "yes.weight" in reached


def test_wrong_inputs_are_refused_although_nothing_is_computed():
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    for shape in ((2, 4, 8, 8), (2, 3, 4, 4)):
        with pytest.raises(growkit.StructureError, match="failed while it was traced"):
            growkit.trace(convolutions, torch.randn(shape))
    with pytest.raises(growkit.StructureError, match="mat1 and mat2"):
        growkit.trace(nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 2)), torch.randn(2, 4))
