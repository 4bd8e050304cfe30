"""A tensor's entries are carried in several ways, by what costs least; all give the same."""

import pytest
import torch

from growkit.surgery.carry import AxisMap

RUNS = torch.cat([torch.arange(96), torch.full((32,), -1), torch.arange(32)]), torch.tensor([0.5] * 32 + [1.0] * 128)
SCATTERED = torch.tensor([5, 3, -1, 3, 90, 0, 95]), torch.tensor([0.3, 0.7, 0.0, 0.2, 1.0, 0.1, 3.0])
PLAIN = torch.tensor([5, 3, 3, 4]), torch.ones(4)
FOLDS = torch.tensor([-1, 2, -1, 4, -1, -1, 1]), torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0])


def expected(tensor, axis, terms, power=1):
    """Return what the definition says, position by position."""
    total = 0
    for source, scale in terms:
        held = (source >= 0).to(tensor.dtype) * scale.to(tensor.dtype) ** power
        shape = [-1 if position == axis else 1 for position in range(tensor.dim())]
        total = total + tensor.index_select(axis, source.clamp(min=0)) * held.view(shape)
    return total


def axis_map(*terms):
    terms = [(source, scale.double()) for source, scale in terms]
    return AxisMap(weight=terms, gradient=terms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("term", [RUNS, SCATTERED, PLAIN], ids=["runs", "scattered", "plain"])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_way_selects_and_multiplies_alike(dtype, axis, term, stride):
    tensor = torch.randn(96, 96 * stride, 96, dtype=dtype)[:, ::stride]
    mapped = axis_map(term)
    for like, power in (("weight", 1), ("gradient", 1), ("square", 2), ("magnitude", 1)):
        torch.testing.assert_close(mapped.apply(tensor, axis, like), expected(tensor, axis, [term], power))
    copied = expected(tensor, axis, [(term[0], torch.ones(len(term[0])))])
    torch.testing.assert_close(mapped.apply(tensor, axis, "copy"), copied)


@pytest.mark.parametrize("axis", [0, 1])
def test_what_units_take_over_is_added(axis):
    tensor = torch.randn(96, 96)
    terms = [SCATTERED, FOLDS, FOLDS]
    torch.testing.assert_close(axis_map(*terms).apply(tensor, axis, "weight"), expected(tensor, axis, terms))


def test_entries_that_stand_for_nothing_do_not_spread():
    tensor = torch.full((96, 4), torch.inf)
    assert torch.equal(axis_map(SCATTERED).apply(tensor, 0, "weight")[2], torch.zeros(4))
