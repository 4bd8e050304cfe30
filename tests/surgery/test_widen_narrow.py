"""Widening and narrowing: the function stays, the sizes follow, and everything attached to parameters survives."""

from __future__ import annotations

import copy
import dataclasses
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from small_models import BY_NAME, CASES, Apply, Case, Concat
from torch import Tensor, nn

from growkit.errors import GrowkitError, SurgeryError
from growkit.structure import trace
from growkit.surgery import Change, Deepen, Narrow, Operation, Widen, apply

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
DTYPES = [pytest.param(torch.float64, id="float64"), pytest.param(torch.float32, id="float32")]
WIDENINGS = [pytest.param(case, edit, id=f"{case}-{name}") for case in CASES for name, edit in case.widenings()]
COPYINGS = [parameter for parameter in WIDENINGS if not parameter.values[1].new]
PROBE = (torch.randn(2, 3, generator=torch.Generator().manual_seed(1)),)


def outputs(model: nn.Module, inputs: tuple[Tensor, ...], *, training: bool) -> Tensor:
    """What a copy of the model computes, so that no running statistics move."""
    return copy.deepcopy(model).train(training)(*inputs).detach()


def back(edit: Widen, size: int) -> Narrow:
    """The inverse of a widening by copies: every copy is folded into its original."""
    return Narrow(edit.width, range(size, size + len(edit.copies)), into=edit.copies)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


# ------------------------------------------------------------------ the function stays


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("case", "edit"), WIDENINGS)
def test_widening_preserves_the_function(case: Case, edit: Widen, dtype):
    model, probe, fresh = case.model(dtype), case.inputs(2, dtype), case.inputs(7, dtype)
    modes = [False] if case.random else [False, True]
    before = [outputs(model, fresh, training=mode) for mode in modes]
    apply(model, edit, example=probe)
    for mode, old in zip(modes, before, strict=True):
        new = outputs(model, fresh, training=mode)
        assert (new - old).abs().max() <= TOLERANCE[dtype]
        assert new.dtype == dtype


@pytest.mark.parametrize(("case", "edit"), COPYINGS)
def test_folding_the_copies_back_restores_the_parameters(case: Case, edit: Widen):
    model, probe, fresh = case.model(), case.inputs(2), case.inputs(7)
    before, text = state(model), repr(model)
    apply(model, edit, example=probe)
    widened = outputs(model, fresh, training=False)
    apply(model, back(edit, case.widths[edit.width]), example=probe)
    assert (outputs(model, fresh, training=False) - widened).abs().max() <= 1e-10
    assert repr(model) == text
    for key, value in model.state_dict().items():
        assert torch.allclose(value, before[key], rtol=0, atol=1e-14), key


@pytest.mark.parametrize(("case", "edit"), WIDENINGS)
def test_a_widened_model_is_like_one_built_so(case: Case, edit: Widen):
    model = case.model()
    size = case.widths[edit.width] + len(edit.copies) + edit.new
    built = case.model(**{edit.width: size})
    apply(model, edit, example=case.inputs(2))
    assert repr(model) == repr(built)
    for key, module in built.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, (int, tuple)):
                assert vars(model.get_submodule(key))[name] == value, f"{key}.{name}"
    built.load_state_dict(model.state_dict(), strict=True)
    fresh = case.inputs(5)
    assert torch.equal(outputs(built, fresh, training=False), outputs(model, fresh, training=False))


@pytest.mark.parametrize(("case", "edit"), WIDENINGS)
def test_a_widened_model_goes_on_learning(case: Case, edit: Widen):
    model, inputs = case.model(torch.float32), case.inputs(6, torch.float32)
    apply(model, edit, example=case.inputs(2, torch.float32))
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    target = torch.randn_like(model.eval()(*inputs))
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = F.mse_loss(model(*inputs), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize(("case", "edit"), COPYINGS)
def test_carried_gradients_are_those_of_the_widened_model(case: Case, edit: Widen):
    """By hand this is the chain rule: a copy of a unit sees its share, a shared weight the whole."""
    model, inputs = case.model().eval(), case.inputs(5)
    target = torch.randn_like(model(*inputs))
    F.mse_loss(model(*inputs), target).backward()
    apply(model, edit, example=case.inputs(2))
    carried = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    F.mse_loss(model(*inputs), target).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(carried[name], parameter.grad, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize(("case", "edit"), COPYINGS)
def test_changes_carry_the_old_parameters_to_the_new_ones(case: Case, edit: Widen):
    model = case.model()
    old = state(model)
    change = apply(model, edit, example=case.inputs(2))
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    assert change.parameters.keys() <= names
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        assert torch.equal(change.carry(old[name], parameter=name), value), name
        assert change.carry(old[name], parameter=name, like="copy").shape == value.shape
        if name in change.parameters:
            assert change[name].new is value


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_widths_of_a_model_grow_at_once(case: Case):
    model, fresh = case.model(), case.inputs(7)
    before = outputs(model, fresh, training=False)
    edits = [Widen(name, range(size)) for name, size in case.widths.items()]
    change = apply(model, edits, example=case.inputs(2))
    assert (outputs(model, fresh, training=False) - before).abs().max() <= 1e-10
    assert change.edits == tuple(edits)
    case.model(**{name: 2 * size for name, size in case.widths.items()}).load_state_dict(model.state_dict())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_widths_of_a_model_shrink_at_once(case: Case):
    model, probe, fresh = case.model(), case.inputs(2), case.inputs(7)
    before, old = outputs(model, fresh, training=False), state(model)
    apply(model, [Widen(name, range(size)) for name, size in case.widths.items()], example=probe)
    folds = [Narrow(name, range(size, 2 * size), into=range(size)) for name, size in case.widths.items()]
    apply(model, folds, example=probe)
    assert (outputs(model, fresh, training=False) - before).abs().max() <= 1e-10
    for key, value in model.state_dict().items():
        assert torch.allclose(value, old[key], rtol=0, atol=1e-14), key


@pytest.mark.parametrize("name", ["grouped", "group norm"])
def test_one_width_shrinks_while_another_that_shares_its_axes_grows(name):
    case = BY_NAME[name]
    model, probe, fresh = case.model(), case.inputs(2), case.inputs(7)
    before = outputs(model, fresh, training=False)
    apply(model, Widen("0", range(2)), example=probe)
    apply(model, [Narrow("0", (2, 3), into=(0, 1)), Widen("0.weight", range(3))], example=probe)
    assert (outputs(model, fresh, training=False) - before).abs().max() <= 1e-10


def test_copies_and_new_units_stand_where_the_edit_says():
    model = two_layers()
    incoming, outgoing = model[0].weight.detach().clone(), model[2].weight.detach().clone()
    apply(model, Widen("0", copies=(2, 0, 2), new=1), example=PROBE)
    assert torch.equal(model[0].weight[:7], incoming[[0, 1, 2, 3, 2, 0, 2]])
    shares = torch.tensor([1 / 2, 1, 1 / 3, 1, 1 / 3, 1 / 2, 1 / 3])
    assert torch.equal(model[2].weight[:, :7], outgoing[:, [0, 1, 2, 3, 2, 0, 2]] * shares)
    assert torch.equal(model[2].weight[:, 7], torch.zeros(2))
    assert model[0].weight[7].abs().min() > 0


def test_new_units_are_initialised_like_their_layer_and_differ():
    model = nn.Sequential(nn.Linear(100, 4), nn.ReLU(), nn.Linear(4, 2))
    apply(model, Widen("0", new=50), example=(torch.randn(2, 100),))
    fresh = model[0].weight[4:].detach()
    assert fresh.abs().max() <= 0.1  # kaiming_uniform of a linear layer: 1 / sqrt(fan in)
    assert fresh.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.1)
    assert len(set(fresh[:, 0].tolist())) == 50


def test_new_units_depend_on_the_seed_only():
    models = [two_layers() for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        torch.rand(3)
        apply(model, Widen("0", new=1), example=PROBE, seed=seed)
    assert torch.equal(models[0][0].weight[4], models[1][0].weight[4])
    assert not torch.equal(models[0][0].weight[4], models[2][0].weight[4])


def test_new_units_of_a_batch_norm_start_with_fresh_statistics():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    model(torch.randn(8, 3) * 5)
    apply(model, Widen("0", new=1), example=PROBE)
    assert model[1].weight[4] == model[1].running_var[4] == 1
    assert model[1].bias[4] == model[1].running_mean[4] == 0


class Scaled(nn.Linear):
    """A linear layer with a gain of its own, which `reset_parameters` knows nothing of."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.full((outputs,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


class Masked(nn.Linear):
    """A sparse layer: some of its weights are switched off by a buffer."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__(inputs, outputs)
        mask = torch.ones(outputs, inputs)
        mask[::2, 1] = 0
        self.register_buffer("mask", mask.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


@pytest.mark.parametrize(
    "layer", [lambda: Scaled(3, 4), lambda: Masked(3, 4, torch.float32)], ids=["own gain", "own mask"]
)
def test_new_units_can_learn(layer):
    """Incoming entries that their layer does not reset must not stay zero: such a unit could never wake up."""
    model = nn.Sequential(layer(), nn.Tanh(), nn.Linear(4, 2))
    inputs = torch.randn(6, 3)
    apply(model, Widen("0", new=2), example=PROBE)
    model(inputs).square().sum().backward()
    assert model[2].weight.grad[:, 4:].abs().min() > 0
    unit = model[0](inputs)[:, 4:]
    assert unit.std(0).min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64], ids=str)
def test_masks_of_outgoing_weights_stay_masks(dtype):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Masked(4, 2, dtype))
    fresh = (torch.randn(5, 3),)
    before = outputs(model, fresh, training=False)
    apply(model, Widen("0", copies=(1, 2)), example=PROBE)
    assert set(model[2].mask.double().unique().tolist()) == {0.0, 1.0}
    assert model[2].mask.dtype == dtype
    assert torch.allclose(outputs(model, fresh, training=False), before, rtol=0, atol=1e-6)


# ------------------------------------------------------------------ narrowing


def test_narrow_removes_exactly_the_named_units():
    model = two_layers()
    incoming, outgoing = model[0].weight.detach().clone(), model[2].weight.detach().clone()
    change = apply(model, Narrow("0", remove=(3, 1)), example=PROBE, exact=False)
    assert torch.equal(model[0].weight, incoming[[0, 2]])
    assert torch.equal(model[2].weight, outgoing[:, [0, 2]])
    assert change.moved > 0


def test_narrow_into_adds_the_outgoing_weights():
    model = two_layers()
    outgoing = model[2].weight.detach().clone()
    apply(model, Narrow("0", remove=(1, 2), into=(3, 0)), example=PROBE, exact=False)
    expected = torch.stack([outgoing[:, 0] + outgoing[:, 2], outgoing[:, 3] + outgoing[:, 1]], 1)
    assert torch.equal(model[2].weight, expected)


def test_several_units_go_into_one():
    model = two_layers()
    outgoing = model[2].weight.detach().clone()
    apply(model, Narrow("0", remove=(1, 2, 3), into=(0, 0, 0)), example=PROBE, exact=False)
    assert torch.allclose(model[2].weight, outgoing.sum(1, keepdim=True))


def test_a_dead_unit_can_go():
    model = two_layers()
    with torch.no_grad():
        model[2].weight[:, 2] = 0
    fresh = (torch.randn(9, 3),)
    before = outputs(model, fresh, training=False)
    apply(model, Narrow("0", remove=(2,)), example=PROBE)
    assert torch.allclose(outputs(model, fresh, training=False), before, rtol=0, atol=1e-6)


def blind(model: nn.Module) -> tuple[Tensor]:
    """An example on which the first unit behind the first layer is silent, though it is not on others."""
    inputs = torch.randn(500, 3)
    silent = inputs[model[0](inputs)[:, 0] < 0]
    return (silent[:2],)


def test_a_unit_that_is_silent_on_the_example_only_is_not_dead():
    model = two_layers()
    fresh = (torch.randn(50, 3),)
    before = outputs(model, fresh, training=False)
    with pytest.raises(SurgeryError):
        apply(model, Narrow("0", remove=(0,)), example=blind(model))
    assert torch.equal(outputs(model, fresh, training=False), before)


def test_units_that_agree_on_the_example_only_are_not_copies():
    model = two_layers()
    example = (torch.zeros(2, 3),)
    with torch.no_grad():
        model[0].bias[1] = model[0].bias[0]
    with pytest.raises(SurgeryError):
        apply(model, Narrow("0", remove=(1,), into=(0,)), example=example)


# ------------------------------------------------------------------ what hangs on parameters survives


def test_tied_weights_stay_tied():
    case = BY_NAME["tied"]
    model = case.model()
    apply(model, Widen("embedding", range(4)), example=case.inputs(2))
    assert model.score.weight is model.embedding.weight
    assert model.score.weight.shape == (7, 8)
    assert [name for name, _ in model.named_parameters()] == ["embedding.weight", "norm.weight", "norm.bias"]


def test_a_module_that_stands_in_two_places_stays_one():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(3, 4), shared, nn.ReLU(), shared, nn.Linear(4, 2))
    apply(model, Widen("0", copies=(0,)), example=PROBE)
    assert model[1] is model[3]
    assert model[1].weight.shape == (5, 5)


def test_unchanged_parameters_are_the_same_objects():
    model = BY_NAME["mlp"].model()
    last, bias = model[4].weight, model[4].bias
    first = model[0].weight
    apply(model, Widen("0", copies=(0,)), example=BY_NAME["mlp"].inputs(2))
    assert model[4].weight is last
    assert model[4].bias is bias
    assert model[0].weight is not first
    assert first.shape == (6, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtype_survives(dtype):
    model = two_layers().to(dtype)
    apply(model, Widen("0", copies=(0, 1), new=1), example=(torch.randn(2, 3, dtype=dtype),))
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_mixed_dtypes_survive():
    model = nn.Sequential(nn.Linear(3, 4), Apply(lambda m, x: x.double()), nn.Linear(4, 2).double())
    apply(model, Widen("0", copies=(0,)), example=PROBE)
    assert [p.dtype for p in model.parameters()] == [torch.float32] * 2 + [torch.float64] * 2


def test_requires_grad_survives():
    model = two_layers()
    model[0].weight.requires_grad_(False)
    apply(model, Widen("0", copies=(0,)), example=PROBE)
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in model.parameters())


@pytest.mark.parametrize(
    ("layer", "shape", "memory_format"),
    [(nn.Conv2d, (2, 2, 5, 5), torch.channels_last), (nn.Conv3d, (2, 2, 5, 5, 5), torch.channels_last_3d)],
    ids=["images", "volumes"],
)
def test_memory_format_survives(layer, shape, memory_format):
    model = nn.Sequential(layer(2, 4, 3), nn.ReLU(), layer(4, 2, 3)).to(memory_format=memory_format)
    apply(model, Widen("0", copies=(0, 1)), example=(torch.randn(shape),))
    for convolution in (model[0], model[2]):
        assert convolution.weight.is_contiguous(memory_format=memory_format)
        assert not convolution.weight.is_contiguous()


def test_contiguous_weights_stay_contiguous():
    model = BY_NAME["convnet"].model()
    apply(model, Widen("0", copies=(0, 1)), example=BY_NAME["convnet"].inputs(2))
    assert all(p.is_contiguous() for p in model.parameters())


def test_hooks_on_parameters_survive_and_can_be_removed():
    model = two_layers()
    seen = []
    on_gradient = model[0].weight.register_hook(lambda grad: seen.append(tuple(grad.shape)))
    after = model[2].weight.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.grad.shape)))
    apply(model, Widen("0", copies=(0,)), example=PROBE)
    model(torch.randn(2, 3)).sum().backward()
    assert sorted(seen) == [(2, 5), (5, 3)]
    on_gradient.remove()
    after.remove()
    model(torch.randn(2, 3)).sum().backward()
    assert len(seen) == 2


def test_a_hook_that_changes_the_gradient_goes_on_doing_so():
    model = two_layers()
    model[0].weight.register_hook(lambda grad: grad * 0)
    apply(model, Widen("0", copies=(0,)), example=PROBE)
    model(torch.randn(2, 3)).sum().backward()
    assert model[0].weight.grad.abs().max() == 0
    assert model[0].bias.grad.abs().max() > 0


def test_attributes_on_parameters_and_buffers_survive():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].weight.no_weight_decay = True
    model[1].running_mean.tag = "statistics"
    apply(model, Widen("0", copies=(0,)), example=PROBE)
    assert model[0].weight.no_weight_decay is True
    assert model[1].running_mean.tag == "statistics"


class Marked(nn.Parameter):
    """A parameter of a kind of its own, as parameter-wise learning-rate schemes use."""


def test_the_class_of_a_parameter_survives():
    model = two_layers()
    model[0].weight = Marked(model[0].weight.detach())
    apply(model, Widen("0", copies=(0,)), example=PROBE)
    assert type(model[0].weight) is Marked


def test_buffers_stay_buffers_and_non_persistent_ones_stay_so():
    model = Apply(lambda m, x: m.last(m.first(x) - m.shift), first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    model.register_buffer("shift", torch.randn(4), persistent=False)
    shift = model.shift.clone()
    apply(model, Widen("first", copies=(2,)), example=PROBE)
    assert torch.equal(model.shift, shift[[0, 1, 2, 3, 2]])
    assert "shift" not in model.state_dict()
    assert "shift" in dict(model.named_buffers())


def test_gradients_that_are_not_there_stay_away():
    model = two_layers()
    apply(model, Widen("0", copies=(0,)), example=PROBE)
    assert all(p.grad is None for p in model.parameters())


def test_a_graph_from_before_the_edit_can_still_be_walked():
    model = two_layers()
    loss = model(torch.randn(2, 3)).sum()
    old = model[0].weight
    apply(model, Widen("0", copies=(0,)), example=PROBE)
    loss.backward()
    assert old.grad.shape == (4, 3)
    assert model[0].weight.grad is None


PARAMETRIZATIONS = ["orthogonal", "spectral_norm", "weight_norm"]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("wrap", PARAMETRIZATIONS)
def test_parametrizations_follow_or_are_refused(wrap, training):
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    getattr(nn.utils.parametrizations, wrap)(model[2])
    probe, fresh = (torch.randn(2, 4).double(),), (torch.randn(5, 4).double(),)
    for width in trace(model, *probe).growable:
        before = outputs(model, fresh, training=training)
        apply(model, Widen(width.name, range(width.size)), example=probe)
        assert (outputs(model, fresh, training=training) - before).abs().max() <= 1e-10


def test_pruned_layers_keep_binary_masks():
    model = two_layers()
    for layer in (model[0], model[2]):
        nn.utils.prune.random_unstructured(layer, "weight", 2)
    fresh = (torch.randn(6, 3),)
    before = model(*fresh).detach()
    apply(model, Widen("0", copies=(0, 1)), example=PROBE)
    assert torch.allclose(model(*fresh), before, rtol=0, atol=1e-6)
    for layer in (model[0], model[2]):
        assert set(layer.weight_mask.unique().tolist()) == {0.0, 1.0}


# ------------------------------------------------------------------ attributes of modules


def test_attributes_follow_a_module_that_is_called_with_keywords():
    model = Apply(lambda m, x: m.last(input=m.first(input=x).relu()), first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    apply(model, Widen("first", copies=(0,)), example=PROBE)
    assert (model.first.out_features, model.last.in_features) == (5, 5)


def test_attributes_follow_a_module_whose_weights_are_used_directly():
    case = BY_NAME["tokens"]
    model = case.model()
    apply(model, Widen("mix", copies=(0,)), example=case.inputs(2))
    assert model.head.weight.shape == (3, 4)
    assert model.head.in_features == 4


class AlongTime(nn.Linear):
    """A linear layer over the axis before the last: its features are not where those of its class are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(-1, -2)).transpose(-1, -2)


def test_attributes_that_mean_something_else_are_left_alone():
    model = nn.Sequential(nn.Linear(3, 4), AlongTime(5, 6), nn.Linear(4, 2))
    apply(model, Widen("0", copies=(0,)), example=(torch.randn(2, 5, 3),))
    assert (model[1].in_features, model[1].out_features) == (5, 6)


def test_no_attribute_is_added_to_a_module():
    model = Apply(
        lambda m, x: m.last(F.conv1d(m.first(x), m.weight, groups=m.first.out_channels)),
        first=nn.Conv1d(2, 4, 1),
        weight=nn.Parameter(torch.randn(4, 1, 3)),
        last=nn.Conv1d(4, 2, 1),
    )
    before = set(vars(model))
    apply(model, Widen("first", copies=(0,)), example=(torch.randn(2, 2, 5),))
    assert set(vars(model)) == before


# ------------------------------------------------------------------ what must not slip through


@dataclasses.dataclass
class Answer:
    logits: Tensor


def answering() -> nn.Module:
    return Apply(lambda m, x: Answer(m.last(m.first(x).relu())), first=nn.Linear(3, 4), last=nn.Linear(4, 2))


@pytest.mark.parametrize(
    "edit",
    [Widen("last", copies=(0,)), Narrow("first", remove=(0, 1))],
    ids=["the output grows", "live units go"],
)
def test_an_output_inside_an_object_is_watched_too(edit):
    model = answering()
    inputs = torch.randn(2, 3)
    before = model(inputs).logits
    with pytest.raises(GrowkitError):
        apply(model, edit, example=(inputs,))
    assert torch.equal(model(inputs).logits, before)


def test_a_number_as_output_is_watched_too():
    model = Apply(lambda m, x: m.last(m.first(x).relu()).sum().item(), first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    with pytest.raises(GrowkitError):
        apply(model, Narrow("first", remove=(0, 1, 2)), example=(torch.randn(9, 3),))


class WithAuxiliaryHead(nn.Module):
    """In training, and only then, a second head sees the hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        return self.head(hidden) + self.auxiliary(hidden) if self.training else self.head(hidden)


def test_a_branch_that_only_training_takes_is_not_left_behind():
    model, inputs = WithAuxiliaryHead(), torch.randn(6, 3)
    before = outputs(model, (inputs,), training=True)
    with suppress(GrowkitError):
        apply(model, Widen("body", copies=(0,)), example=PROBE)
    assert torch.allclose(outputs(model, (inputs,), training=True), before, rtol=0, atol=1e-5)


class Experts(nn.Module):
    """The sign of the sum of a sample's features decides who looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.left, self.right = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        return self.left(hidden) if x.sum() < 0 else self.right(hidden)


def test_a_branch_that_other_inputs_take_is_not_left_behind():
    model = Experts()
    for inputs in (torch.ones(4, 3), -torch.ones(4, 3)):
        before = outputs(model, (inputs,), training=True)
        with suppress(GrowkitError):
            apply(model, Widen("body", copies=(0,)), example=(torch.ones(2, 3),))
        assert torch.allclose(outputs(model, (inputs,), training=True), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("dtype", DTYPES)
def test_recurrent_layers_follow_or_are_refused(kind, dtype):
    model = Apply(
        lambda m, x: m.head(m.recurrent(m.first(x))[0]),
        first=nn.Linear(3, 4),
        recurrent=kind(4, 5, batch_first=True),
        head=nn.Linear(5, 2),
    ).to(dtype)
    probe, fresh = torch.randn(2, 3, 3, dtype=dtype), torch.randn(5, 4, 3, dtype=dtype)
    for width in trace(model, probe).growable:
        before = model(fresh).detach()
        apply(model, Widen(width.name, range(width.size)), example=(probe,))
        assert torch.allclose(model(fresh), before, rtol=0, atol=1e-5)
    assert all(a is b for a, b in zip(model.recurrent._flat_weights, model.recurrent.parameters(), strict=True))


DIVISIONS = {
    "a number over units": lambda m, x: (m.number / (m.gain * x.exp())).sum(-1, keepdim=True),
    "rounded down": lambda m, x: torch.div(m.gain * x * 9, 2, rounding_mode="floor").sum(-1, keepdim=True),
    "truncated": lambda m, x: torch.div(m.gain * x * 9, 2, rounding_mode="trunc").sum(-1, keepdim=True),
    "cast to integers": lambda m, x: (m.gain * x * 9).long().double().sum(-1, keepdim=True),
    "written through a view": lambda m, x: through_a_view(m, x),
    "a bias of one number": lambda m, x: torch.addmm(m.bias, x, m.square).relu(),
}


def through_a_view(m: nn.Module, x: Tensor) -> Tensor:
    x = x * 1
    view = x[:]
    view.mul_(m.gain)
    return view.sum(-1, keepdim=True) + x.relu().square().mean(-1, keepdim=True)


@pytest.mark.parametrize("operation", DIVISIONS)
def test_what_is_called_growable_survives_growing(operation):
    """Rules that let shares through a function that is not linear would be caught by the probe only."""
    model = Apply(
        lambda m, x: DIVISIONS[operation](m, m.first(x)) + m.skip(x),
        first=nn.Linear(3, 4),
        skip=nn.Linear(3, 2),
        gain=nn.Parameter(torch.rand(4) + 1),
        square=nn.Parameter(torch.randn(4, 2)),
        bias=nn.Parameter(torch.randn(1)),
        number=nn.Parameter(torch.tensor(2.0)),
    ).double()
    inputs = (torch.randn(5, 3, dtype=torch.float64),)
    for width in trace(model, *inputs).growable:
        before = outputs(model, inputs, training=False)
        apply(model, Widen(width.name, range(width.size)), example=inputs)
        assert torch.allclose(outputs(model, inputs, training=False), before, rtol=0, atol=1e-10)


def test_both_parts_of_complex_outputs_are_watched():
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.cfloat), nn.Tanh(), nn.Linear(4, 2, dtype=torch.cfloat))
    inputs, fresh = torch.randn(2, 3, dtype=torch.cfloat), torch.randn(5, 3, dtype=torch.cfloat)
    before = model(fresh).detach()
    apply(model, Widen("0", copies=(0, 1, 1), new=1), example=(inputs,))
    assert (model(fresh) - before).abs().max() <= 1e-5
    with torch.no_grad():
        model[2].weight[:, 2] *= 0
        model.append(Apply(lambda m, x: torch.view_as_complex(torch.stack([x.real * 0, x.imag], -1))))
    with pytest.raises(SurgeryError, match="changes what the model computes"):
        apply(model, Narrow("0", remove=(0,)), example=(inputs,))


def test_sparse_gradients_are_carried_or_refused(unchanged):
    model = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Linear(4, 2))
    tokens = torch.tensor([1, 2])
    model(tokens).sum().backward()
    grad = model[0].weight.grad.to_dense()
    try:
        apply(model, Widen("0", copies=(0,)), example=(tokens,))
    except SurgeryError:
        return
    carried = model[0].weight.grad.to_dense()
    assert torch.equal(carried, grad[:, [0, 1, 2, 3, 0]] * torch.tensor([0.5, 1, 1, 1, 0.5]))


def test_an_edit_in_inference_mode_leaves_a_model_that_can_be_trained():
    model = two_layers()
    with torch.inference_mode():
        apply(model, Widen("0", copies=(0,), new=1), example=(torch.randn(2, 3),))
    model(torch.randn(5, 3)).square().sum().backward()
    assert model[0].weight.grad.shape == (6, 3)


def test_a_forward_pass_that_writes_to_its_input_does_not_spoil_the_probe():
    model = Apply(lambda m, x: m.last(m.first(x.sub_(1)).relu()), first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    inputs = torch.randn(2, 3)
    before = inputs.clone()
    apply(model, Widen("first", copies=(0,)), example=(inputs,))
    assert torch.equal(inputs, before)
    assert model.first.weight.shape == (5, 3)


# ------------------------------------------------------------------ one structure, many edits


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_structure_follows_the_edits_made_through_it(case: Case):
    model, probe = case.model(), case.inputs(2)
    structure = trace(model, *probe)
    operation = Operation(structure, probe)
    for name, size in case.widths.items():
        operation.perform(Widen(name, range(size)))
    again = trace(model, *probe)
    assert {w.name: w.size for w in structure.widths.values()} == {w.name: w.size for w in again.widths.values()}
    for name in case.widths:
        for piece, anew in zip(structure[name].incoming, again[name].incoming, strict=True):
            assert torch.equal(piece.index, anew.index)
    assert structure.parameters() == again.parameters()
    assert structure.flops() == pytest.approx(again.flops())


def test_edits_of_one_width_are_joined():
    model = two_layers()
    change = apply(model, [Widen("0", (1,)), Widen("0", (1,), new=1)], example=PROBE)
    assert change.edits == (Widen("0", (1, 1), 1),)
    assert model[0].weight.shape == (7, 3)


def test_a_change_says_how_far_the_output_moved():
    model, inputs = two_layers().double(), (torch.randn(4, 3, dtype=torch.float64),)
    before = model(*inputs).detach()
    change = apply(model, Narrow("0", remove=(0, 1)), example=inputs, exact=False)
    distance = (model(*inputs) - before).abs().max() / before.abs().max().clamp(min=1)
    assert isinstance(change, Change)
    assert change.moved == pytest.approx(distance.item())


def test_inexact_widening_is_allowed_when_asked_for():
    case = BY_NAME["layer norm"]
    model = case.model()
    change = apply(model, Widen("0", copies=(0,)), example=case.inputs(2), exact=False)
    assert change.moved > 1e-6
    assert model[0].weight.shape == (5, 5)
    case.model(**{"0": 5}).load_state_dict(model.state_dict())


def test_the_example_may_be_named():
    model = Apply(lambda m, x: m.last(m.first(x)), first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    model.forward = lambda image: model.last(model.first(image).relu())
    apply(model, Widen("first", copies=(0,)), example={"image": torch.randn(2, 3)})
    assert model.last.in_features == 5


def test_concatenated_parameters_follow():
    model = Apply(
        lambda m, x: m.last(F.linear(x, torch.cat([m.left, m.right])).relu()),
        left=nn.Parameter(torch.randn(4, 3)),
        right=nn.Parameter(torch.randn(3, 3)),
        last=nn.Linear(7, 2),
    )
    inputs, fresh = torch.randn(2, 3), torch.randn(5, 3)
    before = model(fresh).detach()
    widths = trace(model, inputs).growable
    apply(model, [Widen(width.name, copies=(0,)) for width in widths], example=(inputs,))
    assert (model.left.shape, model.right.shape) == ((5, 3), (4, 3))
    assert torch.allclose(model(fresh), before, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_modes_survive(case: Case):
    model = case.model()
    for position, module in enumerate(model.modules()):
        module.training = position % 2 == 0
    modes = [module.training for module in model.modules()]
    apply(model, [Widen(name, range(size)) for name, size in case.widths.items()], example=case.inputs(2))
    assert [module.training for module in model.modules()] == modes


def test_a_branch_joined_twice_grows_in_both_places():
    model = nn.Sequential(nn.Linear(3, 2), Concat(None, nn.Tanh(), None), nn.Linear(6, 2))
    fresh = (torch.randn(5, 3),)
    before = outputs(model, fresh, training=False)
    apply(model, Widen("0", copies=(1,), new=1), example=PROBE)
    assert model[2].weight.shape == (2, 12)
    assert torch.allclose(outputs(model, fresh, training=False), before, rtol=0, atol=1e-6)


class Decayed(NamedTuple):
    rate: float
    weight: Tensor


HOLDERS = {
    "list": lambda weight: [weight],
    "tuple": lambda weight: ("decayed", weight),
    "named tuple": lambda weight: Decayed(0.1, weight),
    "set": lambda weight: {weight},
    "dictionary": lambda weight: {"decayed": weight},
    "keys of a dictionary": lambda weight: {weight: 0.1},
    "nested": lambda weight: [{"groups": ([weight], 0.1)}],
}


def identities(value: Any) -> Any:
    """A container with the identities of the tensors in it."""
    if isinstance(value, dict):
        return [(identities(key), identities(child)) for key, child in value.items()]
    if isinstance(value, (list, tuple, set)):
        return type(value), [identities(child) for child in value]
    return id(value) if isinstance(value, Tensor) else value


@pytest.mark.parametrize("holder", HOLDERS)
def test_parameters_in_containers_of_a_module_are_exchanged_there(holder):
    model, build = two_layers(), HOLDERS[holder]
    weight = model[0].weight
    held = model.held = build(weight)
    with pytest.raises(SurgeryError):
        apply(model, [Widen("0", (0, 1)), Deepen("2", "linear", 7)], example=PROBE)
    assert model[0].weight is weight
    assert identities(model.held) == identities(build(weight))
    apply(model, Widen("0", (0, 1)), example=PROBE)
    assert model[0].weight is not weight
    assert identities(model.held) == identities(build(model[0].weight))
    assert isinstance(held, tuple) or model.held is held
