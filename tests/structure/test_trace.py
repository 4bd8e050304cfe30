"""What a trace finds: widths, the slices of their units, reasons why others cannot change, and costs."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import BY_NAME, CASES, Apply, Case, Concat, Residual, TiedLanguageModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from growkit.errors import StructureError
from growkit.structure import Slice, Structure, trace


def index(slices: tuple[Slice, ...], parameter: str, axis: int = 0) -> list[list[int]]:
    (found,) = (s for s in slices if (s.parameter, s.axis) == (parameter, axis))
    return found.index.tolist()


def places(slices: tuple[Slice, ...]) -> str:
    """The slices without their positions: "0.weight[0] 0.bias[0]"."""
    return " ".join(f"{s.parameter}[{s.axis}]" for s in slices)


def reason(structure: Structure, width: str) -> str:
    assert structure[width].frozen, f"{width} is not frozen"
    return structure[width].frozen


def flops_counted(model: nn.Module, *inputs: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs)
    return counter.get_total_flops()


# ------------------------------------------------------------------ the units of each kind of layer

VECTOR, LINE, IMAGE, VOLUME = (2, 3), (2, 2, 9), (2, 2, 7, 7), (2, 2, 6, 6, 6)

# A layer between two others, the input, and the slices that produce and consume the four units of the first.
LAYERS = {
    "linear": (nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), VECTOR, "", "2.weight[1]"),
    "conv1d": (nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3), LINE, "", "2.weight[1]"),
    "conv2d": (nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), IMAGE, "", "2.weight[1]"),
    "conv3d": (nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Conv3d(4, 2, 3), VOLUME, "", "2.weight[1]"),
    "same padding": (
        *(nn.Conv2d(2, 4, 3, padding="same"), nn.ReLU(), nn.Conv2d(4, 2, 3), IMAGE),
        *("", "2.weight[1]"),
    ),
    "transposed 1d": (
        *(nn.ConvTranspose1d(2, 4, 3), nn.ReLU(), nn.ConvTranspose1d(4, 2, 3), LINE),
        *("", "2.weight[0]"),
    ),
    "transposed 2d": (
        *(nn.ConvTranspose2d(2, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3), IMAGE),
        *("", "2.weight[0]"),
    ),
    "transposed 3d": (
        *(nn.ConvTranspose3d(2, 4, 3), nn.ReLU(), nn.ConvTranspose3d(4, 2, 3), VOLUME),
        *("", "2.weight[0]"),
    ),
    "depthwise": (
        *(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1), IMAGE),
        *("1.weight[0] 1.bias[0]", "2.weight[1]"),
    ),
    "batch norm 1d": (
        *(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), VECTOR),
        *("1.weight[0] 1.bias[0] 1.running_mean[0] 1.running_var[0]", "2.weight[1]"),
    ),
    "batch norm 2d": (
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), IMAGE),
        *("1.weight[0] 1.bias[0] 1.running_mean[0] 1.running_var[0]", "2.weight[1]"),
    ),
    "batch norm 3d": (
        *(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.Conv3d(4, 2, 3), VOLUME),
        *("1.weight[0] 1.bias[0] 1.running_mean[0] 1.running_var[0]", "2.weight[1]"),
    ),
    "batch norm, not affine": (
        *(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2), VECTOR),
        *("1.running_mean[0] 1.running_var[0]", "2.weight[1]"),
    ),
    "batch norm without statistics": (
        *(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2), VECTOR),
        *("1.weight[0] 1.bias[0]", "2.weight[1]"),
    ),
    "instance norm": (
        *(nn.Conv1d(2, 4, 3), nn.InstanceNorm1d(4), nn.Conv1d(4, 2, 3), LINE),
        *("", "2.weight[1]"),
    ),
    "instance norm, affine": (
        *(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 2, 3), IMAGE),
        *("1.weight[0] 1.bias[0]", "2.weight[1]"),
    ),
    "instance norm with statistics": (
        *(nn.Conv1d(2, 4, 3), nn.InstanceNorm1d(4, affine=True, track_running_stats=True), nn.Conv1d(4, 2, 3)),
        *(LINE, "1.weight[0] 1.bias[0] 1.running_mean[0] 1.running_var[0]", "2.weight[1]"),
    ),
    "layer norm": (
        *(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2), VECTOR),
        *("1.weight[0] 1.bias[0]", "2.weight[1]"),
    ),
    "layer norm without bias": (
        *(nn.Linear(3, 4), nn.LayerNorm(4, bias=False), nn.Linear(4, 2), VECTOR),
        *("1.weight[0]", "2.weight[1]"),
    ),
    "rms norm": (nn.Linear(3, 4), nn.RMSNorm(4), nn.Linear(4, 2), VECTOR, "1.weight[0]", "2.weight[1]"),
    "group norm, one group": (
        *(nn.Conv2d(2, 4, 3), nn.GroupNorm(1, 4), nn.Conv2d(4, 2, 3), IMAGE),
        *("1.weight[0] 1.bias[0]", "2.weight[1]"),
    ),
    "group norm, one unit a group": (
        *(nn.Conv2d(2, 4, 3), nn.GroupNorm(4, 4), nn.Conv2d(4, 2, 3), IMAGE),
        *("1.weight[0] 1.bias[0]", "2.weight[1]"),
    ),
    "PReLU": (nn.Conv2d(2, 4, 3), nn.PReLU(4), nn.Conv2d(4, 2, 3), IMAGE, "1.weight[0]", "2.weight[1]"),
    "PReLU of one slope": (nn.Conv2d(2, 4, 3), nn.PReLU(), nn.Conv2d(4, 2, 3), IMAGE, "", "2.weight[1]"),
    "dropout": (nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2), VECTOR, "", "2.weight[1]"),
    "dropout 2d": (nn.Conv2d(2, 4, 3), nn.Dropout2d(), nn.Conv2d(4, 2, 3), IMAGE, "", "2.weight[1]"),
    "max pool": (nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1), IMAGE, "", "2.weight[1]"),
    "max pool 1d": (nn.Conv1d(2, 4, 3), nn.MaxPool1d(2), nn.Conv1d(4, 2, 1), LINE, "", "2.weight[1]"),
    "average pool": (nn.Conv2d(2, 4, 3), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1), IMAGE, "", "2.weight[1]"),
    "average pool 1d": (nn.Conv1d(2, 4, 3), nn.AvgPool1d(2), nn.Conv1d(4, 2, 1), LINE, "", "2.weight[1]"),
    "adaptive average pool": (
        *(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Conv2d(4, 2, 1), IMAGE),
        *("", "2.weight[1]"),
    ),
    "global average pool": (
        *(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), IMAGE),
        *("", "2.weight[1]"),
    ),
    "adaptive max pool": (
        *(nn.Conv2d(2, 4, 3), nn.AdaptiveMaxPool2d(2), nn.Conv2d(4, 2, 1), IMAGE),
        *("", "2.weight[1]"),
    ),
    "upsampling": (nn.Conv2d(2, 4, 3), nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3), IMAGE, "", "2.weight[1]"),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_units_of_each_layer(layer):
    first, middle, last, shape, produced, consumed = LAYERS[layer]
    structure = trace(nn.Sequential(first, middle, last), torch.randn(shape))
    (width,) = structure.growable
    assert (width.name, width.size) == ("0", 4)
    produces = 1 if isinstance(first, nn.modules.conv._ConvTransposeNd) else 0
    assert places(width.incoming) == f"0.weight[{produces}] 0.bias[0] {produced}".strip()
    assert places(width.outgoing) == consumed
    for piece in (*width.incoming, *width.outgoing):
        assert piece.index.tolist() == [[0], [1], [2], [3]]


POINTWISE = [
    *(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.SiLU(), nn.Mish()),
    *(nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.Softsign(), nn.Hardtanh(), nn.Hardsigmoid(), nn.Hardswish()),
    *(nn.LogSigmoid(), nn.Tanhshrink(), nn.Softshrink(), nn.Identity(), nn.ReLU(inplace=True)),
]


@pytest.mark.parametrize("activation", POINTWISE, ids=repr)
def test_pointwise_functions_leave_units_free(activation):
    structure = trace(nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)), torch.randn(2, 3))
    assert structure["0"].frozen is None
    assert places(structure["0"].outgoing) == "2.weight[1]"


def test_flatten_gives_every_channel_a_block_of_columns():
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3 * 2 * 1, 2))
    width = trace(model, torch.randn(2, 1, 3, 2))["0"]
    assert index(width.outgoing, "2.weight", 1) == [[0, 1], [2, 3], [4, 5]]


def test_flatten_of_a_channels_last_image_interleaves_the_columns():
    model = nn.Sequential(nn.Conv2d(1, 3, 2), Apply(lambda m, x: x.permute(0, 2, 3, 1).flatten(1)), nn.Linear(6, 2))
    width = trace(model, torch.randn(2, 1, 3, 2))["0"]
    assert index(width.outgoing, "2.weight", 1) == [[0, 3], [1, 4], [2, 5]]


def test_repeated_channels_repeat_their_columns():
    model = nn.Sequential(nn.Linear(3, 2), Apply(lambda m, x: x.repeat(1, 3)), nn.Linear(6, 2))
    assert index(trace(model, torch.randn(2, 3))["0"].outgoing, "2.weight", 1) == [[0, 2, 4], [1, 3, 5]]


def test_depthwise_multiplier_is_a_width_of_its_own():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 6, 1, groups=2), nn.Conv2d(6, 1, 1))
    structure = trace(model, torch.randn(2, 1, 3, 3))
    channels, multiplier = structure["0"], structure["1"]
    assert (channels.size, multiplier.size) == (2, 3)
    assert index(channels.incoming, "0.weight") == [[0], [1]]
    assert index(channels.incoming, "1.weight") == index(channels.incoming, "1.bias") == [[0, 1, 2], [3, 4, 5]]
    assert index(channels.outgoing, "2.weight", 1) == [[0, 1, 2], [3, 4, 5]]
    assert index(multiplier.incoming, "1.weight") == [[0, 3], [1, 4], [2, 5]]
    assert index(multiplier.outgoing, "2.weight", 1) == [[0, 3], [1, 4], [2, 5]]


def test_grouped_convolution_has_groups_and_members():
    model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.Conv1d(4, 6, 1, groups=2), nn.Conv1d(6, 1, 1))
    structure = trace(model, torch.randn(2, 1, 3))
    groups, inner, outer = structure["0"], structure["0.weight"], structure["1"]
    assert (groups.size, inner.size, outer.size) == (2, 2, 3)
    assert index(groups.incoming, "0.weight") == [[0, 1], [2, 3]]
    assert index(groups.incoming, "1.weight") == [[0, 1, 2], [3, 4, 5]]
    assert index(groups.outgoing, "2.weight", 1) == [[0, 1, 2], [3, 4, 5]]
    assert index(inner.incoming, "0.bias") == [[0, 2], [1, 3]]
    assert index(inner.outgoing, "1.weight", 1) == [[0], [1]]
    assert index(outer.incoming, "1.weight") == index(outer.outgoing, "2.weight", 1) == [[0, 3], [1, 4], [2, 5]]


def test_grouped_transposed_convolution_has_groups_and_members():
    model = nn.Sequential(nn.Linear(3, 4), nn.ConvTranspose1d(4, 6, 1, groups=2), nn.Conv1d(6, 1, 1))
    model = nn.Sequential(model[0], Apply(lambda m, x: x.transpose(1, 2)), *model[1:])
    structure = trace(model, torch.randn(2, 5, 3))
    groups, inner, outer = structure["0"], structure["0.weight"], structure["2"]
    assert index(groups.incoming, "2.weight", 0) == [[0, 1], [2, 3]]
    assert index(inner.outgoing, "2.weight", 0) == [[0, 2], [1, 3]]
    assert index(outer.incoming, "2.weight", 1) == [[0], [1], [2]]
    assert index(outer.outgoing, "3.weight", 1) == [[0, 3], [1, 4], [2, 5]]


def test_group_norm_has_groups_and_uniform_members():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1))
    structure = trace(model, torch.randn(2, 1, 3, 3))
    groups, members = structure["0"], structure["0.weight"]
    assert index(groups.incoming, "1.weight") == [[0, 1], [2, 3]]
    assert index(members.incoming, "1.bias") == [[0, 2], [1, 3]]
    assert groups.uniform is None
    assert "native_group_norm in '1' (GroupNorm) averages over the units of a group" in members.uniform


def test_residual_addition_makes_one_width_of_the_stream():
    model = nn.Sequential(nn.Linear(3, 4), Residual(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4)), nn.Linear(4, 2))
    structure = trace(model, torch.randn(2, 3))
    stream, hidden = structure["0"], structure["1.body.0"]
    assert places(stream.incoming) == "0.weight[0] 0.bias[0] 1.body.2.weight[0] 1.body.2.bias[0]"
    assert places(stream.outgoing) == "1.body.0.weight[1] 2.weight[1]"
    assert places(hidden.outgoing) == "1.body.2.weight[1]"


def test_concatenation_shifts_the_columns_of_later_branches():
    model = nn.Sequential(Concat(nn.Linear(3, 2), None, nn.Linear(3, 2)), nn.BatchNorm1d(7), nn.Linear(7, 2))
    structure = trace(model, torch.randn(2, 3))
    first, second = structure["0.branches.0"], structure["0.branches.2"]
    assert index(first.outgoing, "2.weight", 1) == [[0], [1]]
    assert index(second.outgoing, "2.weight", 1) == index(second.incoming, "1.running_var") == [[5], [6]]


def test_concatenation_with_itself_gives_every_unit_two_columns():
    model = nn.Sequential(nn.Linear(3, 2), Concat(None, nn.ReLU()), nn.Linear(4, 2))
    assert index(trace(model, torch.randn(2, 3))["0"].outgoing, "2.weight", 1) == [[0, 2], [1, 3]]


def test_a_sum_of_concatenations_cut_at_other_places_is_refined():
    model = Apply(
        lambda m, x: m.last(torch.cat([m.a(x), m.b(x)], 1) + torch.cat([m.c(x), m.d(x)], 1)),
        **{name: nn.Linear(3, size) for name, size in {"a": 2, "b": 4, "c": 3, "d": 3}.items()},
        last=nn.Linear(6, 2),
    )
    growable = trace(model, torch.randn(2, 3)).growable
    assert [width.size for width in growable] == [2, 1, 3]
    assert [index(width.outgoing, "last.weight", 1) for width in growable] == [[[0], [1]], [[2]], [[3], [4], [5]]]


def test_a_sum_over_units_makes_their_producer_the_one_that_shares():
    model = Apply(lambda m, x: m.hidden(x).sum(1, keepdim=True) + x, hidden=nn.Linear(3, 4))
    width = trace(model, torch.randn(2, 3))["hidden"]
    assert (places(width.incoming), places(width.outgoing)) == ("", "hidden.weight[0] hidden.bias[0]")


def test_a_sum_over_gated_units_makes_the_gain_share():
    width = trace(BY_NAME["summed"].model(), *BY_NAME["summed"].inputs(2))["hidden"]
    assert (places(width.incoming), places(width.outgoing)) == ("hidden.weight[0] hidden.bias[0]", "gain[0]")


def test_a_mean_over_units_wants_uniform_copies():
    model = Apply(lambda m, x: m.hidden(x).mean(-1, keepdim=True) + x, hidden=nn.Linear(3, 4))
    width = trace(model, torch.randn(2, 3))["hidden"]
    assert width.uniform == "aten.mean in the model averages over the units"
    assert width.copies_only is None


@pytest.mark.parametrize("extreme", ["amax", "amin"])
def test_an_extreme_over_units_wants_copies_only(extreme):
    model = Apply(lambda m, x: getattr(m.hidden(x), extreme)(-1, keepdim=True) + x, hidden=nn.Linear(3, 4))
    width = trace(model, torch.randn(2, 3))["hidden"]
    assert width.copies_only == f"aten.{extreme} in the model takes an extreme over the units"
    assert width.uniform is None


def test_reductions_over_time_leave_units_free():
    model = Apply(
        lambda m, x: m.last(m.hidden(x).mean(1) + m.hidden(x).sum(-2) + m.hidden(x).amax(1) + m.hidden(x).std(1)),
        hidden=nn.Linear(3, 4),
        last=nn.Linear(4, 2),
    )
    width = trace(model, torch.randn(2, 5, 3))["hidden"]
    assert (width.frozen, width.uniform, width.copies_only) == (None, None, None)


def test_embedding_features_are_units_and_its_rows_are_not():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2))
    structure = trace(model, torch.tensor([[1, 2], [3, 4]]))
    assert places(structure["0"].incoming) == "0.weight[1]"
    assert "looks its units up by the data" in reason(structure, "0.weight")


def test_a_tied_embedding_with_layer_norm_shares_in_the_norm():
    width = trace(TiedLanguageModel(4), torch.tensor([[1, 2], [3, 4]]))["embedding"]
    assert places(width.incoming) == "embedding.weight[1]"
    assert places(width.outgoing) == "norm.weight[0] norm.bias[0]"
    assert "native_layer_norm in 'norm' (LayerNorm)" in width.uniform


def test_a_layer_used_twice_joins_its_input_and_output():
    width = trace(BY_NAME["shared"].model(), *BY_NAME["shared"].inputs(2))["first"]
    assert places(width.incoming) == "first.weight[0] first.bias[0] again.weight[0] again.bias[0]"
    assert places(width.outgoing) == "again.weight[1] last.weight[1]"


def test_queries_share_what_keys_copy():
    width = trace(BY_NAME["attention"].model(), *BY_NAME["attention"].inputs(2))["key"]
    assert places(width.incoming) == "key.weight[0] key.bias[0]"
    assert places(width.outgoing) == "query.weight[0] query.bias[0]"


def test_buffers_that_meet_units_belong_to_them():
    model = Apply(lambda m, x: m.last((m.first(x) - m.mean) / m.scale), first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    model.register_buffer("mean", torch.zeros(4))
    model.register_buffer("scale", torch.ones(1, 4))
    width = trace(model, torch.randn(2, 3))["first"]
    assert "mean[0]" in places(width.incoming)
    assert "scale[1]" in places(width.incoming)


@pytest.mark.parametrize("function", [torch.cat, torch.stack], ids=["cat", "stack"])
def test_parameters_that_are_used_in_a_list_only_are_found(function):
    model = Apply(
        lambda m, x: m.last((x @ function([m.left, m.right], 0).reshape(-1, 3).t()).relu()),
        left=nn.Parameter(torch.randn(4, 3)),
        right=nn.Parameter(torch.randn(4, 3)),
        last=nn.Linear(8, 2),
    )
    structure = trace(model, torch.randn(2, 3))
    assert {"left", "right"} <= structure.axes.keys()
    for width in structure.growable:
        assert width.incoming


@pytest.mark.parametrize("shape", [(2, 7, 7), (1, 2, 7, 7), (5, 2, 9, 8)], ids=["no batch", "batch of one", "other"])
def test_the_example_does_not_matter_for_what_is_found(shape):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4) if len(shape) == 4 else nn.ReLU(), nn.Conv2d(4, 2, 3))
    (width,) = trace(model, torch.randn(shape)).growable
    assert (width.name, width.size, places(width.outgoing)) == ("0", 4, "2.weight[1]")


def test_an_unbatched_vector_can_be_traced():
    (width,) = trace(BY_NAME["mlp"].model()[:3], torch.randn(5, dtype=torch.float64)).growable
    assert (width.name, places(width.outgoing)) == ("0", "2.weight[1]")


def test_a_width_of_one_unit_is_a_width():
    structure = trace(nn.Sequential(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2)), torch.randn(2, 3))
    assert structure["0"].size == 1
    assert structure["0"].frozen is None


# ------------------------------------------------------------------ the zoo


@pytest.mark.parametrize("case", CASES, ids=str)
def test_widths_of_the_zoo(case: Case):
    growable = trace(case.model(), *case.inputs(3)).growable
    assert {width.name: width.size for width in growable} == case.widths
    assert {width.name for width in growable if width.uniform} == case.uniform
    assert {width.name for width in growable if width.copies_only} == case.copies_only


@pytest.mark.parametrize("case", CASES, ids=str)
def test_flops_are_those_of_torch(case: Case):
    model, inputs = case.model(), case.inputs(3)
    assert trace(model, *inputs).flops() == pytest.approx(flops_counted(model, *inputs) / 3, rel=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_costs_of_other_sizes_are_those_of_really_built_models(case: Case):
    inputs = case.inputs(2)
    structure = trace(case.model(), *inputs)
    for name, size in case.widths.items():
        sizes = {name: size + 3}
        built = case.model(**sizes)
        assert structure.parameters(sizes) == sum(p.numel() for p in built.parameters())
        assert structure.flops(sizes) == pytest.approx(flops_counted(built, *inputs) / 2, rel=1e-12)
    everything = {name: 2 * size + 1 for name, size in case.widths.items()}
    built = case.model(**everything)
    assert structure.parameters(everything) == sum(p.numel() for p in built.parameters())
    assert structure.flops(everything) == pytest.approx(flops_counted(built, *inputs) / 2, rel=1e-12)


def test_parameters_that_the_pass_does_not_reach_are_counted():
    model = Apply(lambda m, x: m.used(x), used=nn.Linear(3, 4), unused=nn.Linear(7, 5))
    structure = trace(model, torch.randn(2, 3))
    assert structure.parameters() == 3 * 4 + 4 + 7 * 5 + 5


def test_a_pass_in_training_mode_adds_no_flops():
    class Asks(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (2 if self.training else 1)

    assert trace(Asks(3, 4), torch.randn(2, 3)).flops() == 24


def test_tied_parameters_are_counted_once():
    assert trace(TiedLanguageModel(4), torch.tensor([[1, 2]])).parameters({"embedding": 6}) == 7 * 6 + 6 + 6


ATTENTION = Apply(lambda m, x: F.scaled_dot_product_attention(m.q(x), m.q(x), x), q=nn.Linear(3, 3))
BATCHED = Apply(lambda m, x: torch.baddbmm(x, m.q(x), x.transpose(1, 2)), q=nn.Linear(3, 3))


@pytest.mark.parametrize("model", [ATTENTION, BATCHED], ids=["attention", "baddbmm"])
def test_flops_of_operations_without_a_rule_count(model):
    inputs = torch.randn(2, 3, 3)
    assert trace(model, inputs).flops() == flops_counted(model, inputs) / 2


# ------------------------------------------------------------------ what cannot change, and why


@torch.library.custom_op("growkit_tests::twist", mutates_args=())
def twist(x: Tensor) -> Tensor:
    return x * 2


def around(function) -> nn.Module:
    """A network that has four units between two layers, where a function of its own acts on them."""
    probe = torch.zeros(2, 4)
    features = function(None, probe).shape[-1]
    return Apply(
        lambda m, x: m.after(m.middle(m.before(x))),
        before=nn.Linear(3, 4),
        middle=Apply(function),
        after=nn.Linear(features, 2),
    )


CONSTANT = torch.ones(4)

REFUSED = {
    "cumsum": (lambda m, x: x.cumsum(-1), "aten.cumsum in 'middle' (Apply) depends on the order of its units"),
    "custom operation": (lambda m, x: twist(x), "growkit_tests.twist in 'middle' (Apply) has no dimension rule"),
    "log softmax": (
        lambda m, x: x.log_softmax(-1),
        "aten._log_softmax in 'middle' (Apply) sums the exponentials of its units",
    ),
    "view that splits": (
        lambda m, x: x.view(-1, 2, 2).flatten(1),
        "aten.view in 'middle' (Apply) gives its size as the number 2",
    ),
    "view that regroups": (
        lambda m, x: x.reshape(4, 2).relu().reshape(2, 4),
        "aten.view in 'middle' (Apply) gives its size as the number",
    ),
    "uneven stride": (lambda m, x: x[:, ::3], "aten.slice in 'middle' (Apply) takes every so many of its units"),
    "index": (lambda m, x: x[:, [0, 2]], "aten.index in 'middle' (Apply) looks its units up by the data"),
    "select": (lambda m, x: x[:, 0, None] + x, "aten.select in 'middle' (Apply) takes one of its units"),
    "sort": (lambda m, x: x.sort(-1).values, "aten.sort in 'middle' (Apply) orders its units"),
    "place of the maximum": (
        lambda m, x: x * x.max(-1, keepdim=True).indices,
        "aten.max in 'middle' (Apply) returns positions along it",
    ),
    "unbiased variance": (
        lambda m, x: x / x.std(-1, keepdim=True),
        "aten.std in 'middle' (Apply) divides by one less than its number of units",
    ),
    "sum of what is whole": (
        lambda m, x: x * x.relu().sum(-1, keepdim=True),
        "aten.sum in 'middle' (Apply) sums over its units with no weight that could share them out",
    ),
    "pairs of units": (
        lambda m, x: (x[:, :, None] * x[:, None, :]).flatten(1),
        "runs over pairs of its units in 'after.weight'",
    ),
    "a constant made on the way": (
        lambda m, x: x * torch.arange(4.0),
        "was made by aten.arange in 'middle' (Apply)",
    ),
    "a constant from elsewhere": (
        lambda m, x: x * CONSTANT,
        "aten.mul in 'middle' (Apply) that is neither a parameter, a buffer nor computed from inputs",
    ),
    "pooling over units": (
        lambda m, x: F.avg_pool1d(x[:, None], 2)[:, 0],
        "aten.avg_pool2d in 'middle' (Apply) slides over it",
    ),
}


@pytest.mark.parametrize("operation", REFUSED)
def test_frozen_units_say_which_operation_and_module_stopped_them(operation):
    function, why = REFUSED[operation]
    structure = trace(around(function), torch.randn(2, 3))
    assert why in reason(structure, "before")
    assert "before" not in [width.name for width in structure.growable]


def test_a_slice_whose_size_is_a_number_leaves_the_rest_free():
    structure = trace(around(lambda m, x: x[:, 1:]), torch.randn(2, 3))
    assert structure["before"].size == 3
    assert structure["before.weight"].size == 1
    assert "aten.slice in 'middle' (Apply) gives its size as the number 1" in reason(structure, "before.weight")


def test_inputs_and_outputs_say_so():
    structure = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(2, 3))
    assert reason(structure, "0.weight[1]") == "is axis 1 of the model's input 0"
    assert reason(structure, "1") == "is axis 1 of the model's output"
    assert structure["0"].frozen is None


def test_keyword_inputs_are_called_by_their_name():
    model = Apply(lambda m, x: m.first(x), first=nn.Linear(3, 4))
    model.forward = lambda image: model.first(image)
    assert "the model's input image" in reason(trace(model, image=torch.randn(2, 3)), "first.weight[1]")


def test_positional_and_keyword_inputs_together():
    model = Apply(lambda m, x: x, first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    model.forward = lambda x, scale: model.last(model.first(x).relu()) * scale
    (width,) = trace(model, torch.randn(2, 3), scale=torch.ones(2, 2)).growable
    assert width.name == "first"


def test_every_output_of_a_nested_container_is_fixed():
    model = Apply(lambda m, x: {"a": (m.a(x), [m.b(x)]), "c": None}, a=nn.Linear(3, 4), b=nn.Linear(3, 5))
    structure = trace(model, torch.randn(2, 3))
    assert structure.growable == []
    assert "output" in reason(structure, "a")
    assert "output" in reason(structure, "b")


def test_one_number_for_all_units_cannot_be_copied():
    model = BY_NAME["mlp"].model()
    model[1] = Apply(lambda m, x: x * m.scale, scale=nn.Parameter(torch.ones(1, dtype=torch.float64)))
    structure = trace(model, *BY_NAME["mlp"].inputs(2))
    assert reason(structure, "1") == "aten.mul in '1' (Apply) repeats it along a longer axis"
    assert structure["0"].frozen is None


def test_an_autoencoder_with_tied_weights_is_refused():
    model = Apply(lambda m, x: F.linear(m.code(x).relu(), m.code.weight.t()), code=nn.Linear(3, 4))
    why = reason(trace(model, torch.randn(2, 3)), "code")
    assert why == "aten.mm in the model sums over its units where neither factor can share them out"


def test_parallel_branches_that_cannot_agree_are_refused():
    # The sum needs shares, the rectifier whole units, and both see the same tensor.
    model = Apply(lambda m, x: m.a(x).sum(1, keepdim=True) + m.b(x).relu().sum(1, keepdim=True))
    model.a = model.b = nn.Linear(3, 4)
    why = reason(trace(model, torch.randn(2, 3)), "a")
    assert why == "aten.relu in the model needs its units whole where an earlier operation has to share them out"


def test_a_failure_before_the_first_operation_reads_well():
    with pytest.raises(StructureError) as caught:
        trace(nn.Sequential(nn.Linear(3, 4)), "no tensor")
    assert "in  in" not in caught.value.what


def test_reasons_name_the_innermost_module():
    model = nn.Sequential(nn.Linear(3, 4), Residual(Apply(lambda m, x: x.cumprod(1))), nn.Linear(4, 2))
    assert "aten.cumprod in '1.body.0' (Apply)" in reason(trace(model, torch.randn(2, 3)), "0")


def test_flattened_uniform_halves_of_a_concatenation_are_frozen():
    model = nn.Sequential(Concat(nn.Linear(3, 2), nn.Linear(3, 4)), nn.LayerNorm(6), nn.Linear(6, 2))
    structure = trace(model, torch.randn(2, 3))
    for name in ("0.branches.0", "0.branches.1"):
        assert "averages over the units together with other units" in reason(structure, name)


def test_units_averaged_as_one_and_cut_later_are_frozen():
    """The layer norm sees all six; the sum cuts them into two widths that no single edit can scale together."""
    model = Apply(
        lambda m, x: m.last(torch.cat([m.norm(m.a(x)), m.b(x)], 1) + torch.cat([m.c(x), m.d(x)], 1)),
        **{name: nn.Linear(3, size) for name, size in {"a": 6, "b": 2, "c": 2, "d": 6}.items()},
        norm=nn.LayerNorm(6),
        last=nn.Linear(8, 2),
    )
    structure = trace(model, torch.randn(2, 3))
    cut = [width for width in structure.widths.values() if "norm.weight[0]" in places(width.incoming)]
    assert len(cut) == 2
    assert all(width.frozen for width in cut)


# ------------------------------------------------------------------ the trace leaves nothing behind


class Stochastic(nn.Module):
    """Draws from every generator, counts its calls in a buffer, and keeps running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        noise = random.random() + np.random.rand() + torch.rand(())
        return self.last(F.dropout(self.norm(self.first(x))) + noise)


def mixed_modes(model: nn.Module) -> nn.Module:
    for position, module in enumerate(model.modules()):
        module.training = position % 3 != 1
    return model


def test_trace_leaves_the_model_exactly_as_it_was(unchanged):
    model = mixed_modes(Stochastic())
    inputs = torch.randn(2, 3)
    model(inputs).sum().backward()
    model.first.register_forward_hook(lambda *_: None)
    model.first.weight.register_hook(lambda grad: grad)
    with unchanged(model):
        trace(model, inputs)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_trace_leaves_the_zoo_exactly_as_it_was(case: Case, unchanged):
    model, inputs = mixed_modes(case.model()), case.inputs(2)
    model(*inputs).sum().backward()
    with unchanged(model):
        trace(model, *inputs)


def test_trace_leaves_no_global_hooks():
    before = [len(hooks) for hooks in vars(nn.modules.module).values() if isinstance(hooks, dict)]
    trace(nn.Linear(3, 2), torch.randn(2, 3))
    with pytest.raises(StructureError):
        trace(nn.Linear(3, 2), torch.randn(2, 5))
    after = [len(hooks) for hooks in vars(nn.modules.module).values() if isinstance(hooks, dict)]
    assert after == before


def test_buffers_that_the_forward_pass_replaces_come_back(unchanged):
    model = Apply(lambda m, x: count(m, m.first(x)), first=nn.Linear(3, 2))
    model.register_buffer("calls", torch.zeros(()))

    def count(m: nn.Module, x: Tensor) -> Tensor:
        m.calls = m.calls + 1
        return x

    inputs = torch.randn(2, 3)
    with unchanged(model):
        trace(model, inputs)


def test_parameters_that_the_forward_pass_writes_to_come_back(unchanged):
    model = nn.Sequential(nn.Embedding(7, 4, max_norm=0.1), nn.Linear(4, 2))
    with unchanged(model):
        trace(model, torch.tensor([[1, 2]]))


def test_example_inputs_that_the_forward_pass_writes_to_come_back():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))
    inputs = torch.randn(4, 3)
    before = inputs.clone()
    trace(model, inputs)
    assert torch.equal(inputs, before)


def test_a_forward_pass_that_fails_is_reported_and_leaves_everything(unchanged):
    model, inputs = mixed_modes(nn.Sequential(nn.Linear(3, 4), Stochastic())), torch.randn(2, 3)
    with unchanged(model), pytest.raises(StructureError) as caught:
        trace(model, inputs)
    error = caught.value
    assert "forward pass of Sequential failed" in error.what
    assert "'1.first' (Linear)" in error.what
    assert "mat1 and mat2" in error.seen
    assert error.expected
    assert error.advice


# ------------------------------------------------------------------ odd operations that models do contain


ODD = {
    "torch.equal": lambda m, x: x if torch.equal(x, x) else -x,
    "an item": lambda m, x: x * (1.0 if x.mean().item() < 1e9 else 2.0),
    "maximum of two": lambda m, x: torch.max(x, -x),
    "where": lambda m, x: torch.where(x > 0, x, x.exp() - 1),
    "masked fill": lambda m, x: x.masked_fill(x > 1, 1.0),
    "in place": lambda m, x: x.clone().mul_(2).add_(1).relu_(),
    "written through a view": lambda m, x: write_through(x.clone()),
    "einsum": lambda m, x: torch.einsum("bi,bi->bi", x, x.sigmoid()),
    "no grad": lambda m, x: x - x.detach().tanh(),
    "dtype and back": lambda m, x: x.double().sigmoid().float(),
    "squeeze and unsqueeze": lambda m, x: x.unsqueeze(1).squeeze(1),
    "a trip through axes": lambda m, x: x[:, None, :].expand(-1, 3, -1).transpose(-1, 1).mean(-1),
    "stack": lambda m, x: torch.stack([x, x.relu()], -1).amax(-1),
}


def write_through(x: Tensor) -> Tensor:
    x[:, :].mul_(x.sigmoid())
    x[...] = x * 0.5
    return x


@pytest.mark.parametrize("operation", ODD)
def test_common_operations_leave_units_free(operation):
    model = around(ODD[operation])
    structure = trace(model, torch.randn(2, 3))
    assert structure["before"].frozen is None
    assert places(structure["before"].outgoing) == "after.weight[1]"


UNREADABLE = {
    "bytes as other numbers": (lambda m, x: x.view(torch.int16).float(), 8),
    "axes of a number": (lambda m, x: x * m.number.transpose(0, 0), 4),
}


@pytest.mark.parametrize("operation", UNREADABLE)
def test_operations_that_a_rule_cannot_read_do_not_break_the_trace(operation):
    function, features = UNREADABLE[operation]
    model = Apply(lambda m, x: m.last(function(m, m.first(x))), first=nn.Linear(3, 4), last=nn.Linear(features, 2))
    model.number = nn.Parameter(torch.tensor(2.0))
    assert trace(model, torch.randn(2, 3))["first"].size == 4


@pytest.mark.parametrize("name", ["mlp", "convnet", "layer norm"])
def test_a_trace_in_inference_mode_finds_the_same(name):
    """Validation hooks run in it, and there torch does not take composite operations apart."""
    case = BY_NAME[name]
    model, inputs = case.model(), case.inputs(2)
    with torch.inference_mode():
        growable = trace(model, *inputs).growable
    assert {width.name: width.size for width in growable} == case.widths


# ------------------------------------------------------------------ names


def test_widths_come_in_forward_order_under_unique_names():
    structure = trace(BY_NAME["depthwise"].model(), *BY_NAME["depthwise"].inputs(2))
    assert list(structure.widths) == ["0", "0.weight[1]", "3", "6", "8"]
    assert [width.name for width in structure.widths.values()] == list(structure.widths)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_names_and_slices_are_those_of_a_larger_model(case: Case):
    larger = {name: 2 * size for name, size in case.widths.items()}
    small, large = trace(case.model(), *case.inputs(2)), trace(case.model(**larger), *case.inputs(3))
    assert list(small.widths) == list(large.widths)
    for name, width in small.widths.items():
        assert places(width.incoming) == places(large[name].incoming)
        assert places(width.outgoing) == places(large[name].outgoing)


def test_a_parameter_of_the_model_itself_names_its_width():
    model = Apply(lambda m, x: (x @ m.left).relu() @ m.right)
    model.left, model.right = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 2))
    (width,) = trace(model, torch.randn(2, 3)).growable
    assert (width.name, places(width.incoming), places(width.outgoing)) == ("left", "left[1]", "right[0]")


def test_an_unknown_width_is_answered_with_the_nearest():
    structure = trace(BY_NAME["resnet"].model(), *BY_NAME["resnet"].inputs(2))
    with pytest.raises(StructureError, match=r"did you mean '1.body.0'\?") as caught:
        structure["1.bodi.0"]
    assert "'2.body.0'" in caught.value.expected
    assert caught.value.seen == "'1.bodi.0'"


def test_the_text_of_a_structure_lists_sizes_and_reasons():
    text = repr(trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(2, 3)))
    assert text.splitlines()[1:] == [
        "  0: 4",
        "  0.weight[1]: 3 (frozen: is axis 1 of the model's input 0)",
        "  1: 2 (frozen: is axis 1 of the model's output)",
    ]


# ------------------------------------------------------------------ what has no sizes


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("batch", "units"), [(0, 4), (2, 0)])
def test_an_operation_on_nothing_costs_nothing(batch, units):
    structure = trace(nn.Sequential(nn.Linear(3, units), nn.Linear(units, 2)), torch.randn(batch, 3))
    assert structure["0"].size == units
    assert structure.flops() == 0


def conditional(m, x):
    return torch.cond(x.sum() > 0, lambda h: h.relu(), lambda h: h.tanh(), (m.first(x),))


LACKING = {
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), torch.randn(2, 3), "'0.weight' has no shape yet"),
    "lazy buffers": (lambda: nn.LazyBatchNorm1d(affine=False), torch.randn(2, 3), "'running_mean' has no shape yet"),
    "nested": (
        lambda: nn.Linear(3, 4),
        torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged),
        "nested tensor",
    ),
    "exported": (
        lambda: torch.export.export(nn.Linear(3, 4), (torch.randn(2, 3),)).module(),
        torch.randn(2, 3),
        "GraphModule cannot be switched to evaluation",
    ),
    "conditional": (
        lambda: Apply(conditional, first=nn.Linear(3, 4)),
        torch.randn(2, 3),
        "the higher-order operator cond has no dimension rule\n",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LACKING)
def test_what_cannot_be_traced_is_refused_in_words(name):
    build, x, words = LACKING[name]
    with pytest.raises(StructureError, match=words) as caught:
        trace(build(), x)
    assert "0x" not in str(caught.value)
