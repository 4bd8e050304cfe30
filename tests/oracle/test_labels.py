"""The oracle on small models whose answer is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

from oracle.labels import labels

torch.set_num_threads(1)


class Made(nn.Module):
    """A model made of named parts and a function of the parts and the inputs."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def known(model, *inputs):
    found = labels(model, *inputs)
    assert not found.unknown
    return found


def named(group):
    return {f"{name}[{axis}]": positions for (name, axis), positions in group.items()}


def group(model, inputs, name, position):
    """The group of a position that belongs to one component only."""
    name, axis = name.rstrip("]").split("[")
    found = known(model, *inputs)
    (component,) = found.components(name, int(axis))[position]
    units = named(found.unit_groups(name, int(axis), position))
    assert units == named(found.members(component))
    assert {f"{name}[{axis}]" for name, axis in found.partners(name, int(axis))} >= set(units)
    return units


def shared(found, name, *positions):
    """Everything that belongs to the one component that some positions of an axis have in common."""
    name, axis = name.rstrip("]").split("[")
    components = found.components(name, int(axis))
    (common,) = frozenset.intersection(*(components[position] for position in positions))
    return named(found.members(common))


def same(positions, *names):
    return dict.fromkeys(names, positions)


def weights(position, out, *into):
    """An output of some layers that is an input of others."""
    return same([position], f"{out}.weight[0]", f"{out}.bias[0]", *(f"{name}.weight[1]" for name in into))


def test_hidden_units_are_rows_biases_and_columns():
    mlp = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2))
    inputs = (torch.randn(2, 3),)
    assert group(mlp, inputs, "0.weight[0]", 1) == weights(1, "0", "2")
    assert group(mlp, inputs, "4.weight[1]", 3) == weights(3, "2", "4")
    assert group(mlp, inputs, "0.weight[1]", 2) == {"0.weight[1]": [2]}
    assert group(mlp, inputs, "4.bias[0]", 0) == weights(0, "4")


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).eval())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels(model, torch.randn(2, 3))
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch._C._get_mkldnn_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_channels_go_through_batch_norm_and_pooling():
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3)
    norm = same([2], *(f"1.{name}[0]" for name in ("weight", "bias", "running_mean", "running_var")))
    assert group(nn.Sequential(*layers), (torch.randn(2, 3, 12, 12),), "0.weight[0]", 2) == weights(2, "0", "4") | norm


def test_a_flattened_channel_is_many_columns():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 16, 2))
    columns = {"2.weight[1]": list(range(16, 32))}
    assert group(model, (torch.randn(2, 3, 4, 4),), "0.bias[0]", 1) == weights(1, "0") | columns


def test_what_a_flattened_channel_becomes_again_is_that_channel():
    def forward(model, x):
        return model.b(model.a(x).flatten(1).view(2, 5, 4, 4))

    model = Made(forward, a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 4, 1))
    assert group(model, (torch.randn(2, 3, 4, 4),), "a.weight[0]", 3) == weights(3, "a", "b")


def test_a_residual_stream_is_one():
    def forward(model, x):
        x = model.stem(x)
        x = x + model.a(x)
        return model.head(x + model.b(x))

    model = Made(forward, stem=nn.Linear(3, 4), a=nn.Linear(4, 4), b=nn.Linear(4, 4), head=nn.Linear(4, 2))
    expected = weights(3, "stem", "a", "b", "head") | weights(3, "a") | weights(3, "b")
    assert group(model, (torch.randn(2, 3),), "a.weight[1]", 3) == expected


def test_concatenated_units_keep_apart():
    def forward(model, x):
        return model.c(torch.cat([model.a(x), x[:, :2], model.b(x)], dim=1))

    model = Made(forward, a=nn.Linear(3, 4), b=nn.Linear(3, 5), c=nn.Linear(11, 2))
    inputs = (torch.randn(2, 3),)
    assert group(model, inputs, "a.weight[0]", 1) == weights(1, "a") | {"c.weight[1]": [1]}
    assert group(model, inputs, "b.weight[0]", 1) == weights(1, "b") | {"c.weight[1]": [7]}
    assert group(model, inputs, "c.weight[1]", 4) == {"c.weight[1]": [4]}


def test_dense_blocks_see_all_earlier_features():
    def forward(model, x):
        features = [model.stem(x)]
        for layer in model.layers:
            features.append(layer(torch.cat(features, dim=1)))
        return torch.cat(features, dim=1)

    layers = nn.ModuleList(nn.Conv2d(4 + 3 * n, 3, 3, padding=1) for n in range(3))
    model = Made(forward, stem=nn.Conv2d(3, 4, 1), layers=layers)
    inputs = (torch.randn(2, 3, 4, 4),)
    assert group(model, inputs, "stem.bias[0]", 2) == weights(2, "stem", "layers.0", "layers.1", "layers.2")
    later = same([6], "layers.1.weight[1]", "layers.2.weight[1]")
    assert group(model, inputs, "layers.0.bias[0]", 2) == weights(2, "layers.0") | later


def test_a_depthwise_convolution_passes_its_channels():
    layers = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1)
    expected = weights(1, "0", "2") | weights(1, "1")
    assert group(nn.Sequential(*layers), (torch.randn(2, 3, 5, 5),), "0.weight[0]", 1) == expected


def test_a_depthwise_convolution_with_a_multiplier_has_channels_and_copies():
    layers = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1)
    found = known(nn.Sequential(*layers), torch.randn(2, 3, 5, 5))
    both = "1.weight[0]", "1.bias[0]", "2.weight[1]"
    assert shared(found, "0.weight[0]", 1) == weights(1, "0") | same([2, 3], *both)
    assert shared(found, "1.weight[0]", 0, 2) == same([0, 2, 4, 6], *both)


def test_a_grouped_convolution_has_groups_and_channels_in_a_group():
    layers = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3, groups=2), nn.Conv2d(4, 2, 1)
    found = known(nn.Sequential(*layers), torch.randn(2, 3, 5, 5))
    before, after = ("0.weight[0]", "0.bias[0]"), ("1.weight[0]", "1.bias[0]", "2.weight[1]")
    assert shared(found, "0.weight[0]", 3, 4) == same([3, 4, 5], *before) | same([2, 3], *after)
    assert shared(found, "0.weight[0]", 1, 4) == same([1, 4], *before) | {"1.weight[1]": [1]}
    assert shared(found, "1.weight[0]", 0, 2) == same([0, 2], *after)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_have_inputs_first(groups):
    layers = nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=groups), nn.Conv2d(6, 2, 1)
    found = known(nn.Sequential(*layers), torch.randn(2, 3, 5, 5))
    if groups == 1:
        assert shared(found, "0.weight[0]", 1) == same([1], "0.weight[0]", "0.bias[0]", "1.weight[0]")
        assert shared(found, "2.weight[1]", 1) == same([1], "1.weight[1]", "1.bias[0]", "2.weight[1]")
    else:
        both = ("0.weight[0]", "0.bias[0]", "1.weight[0]"), ("1.bias[0]", "2.weight[1]")
        assert shared(found, "2.weight[1]", 0, 1) == same([0, 1], *both[0]) | same([0, 1, 2], *both[1])
        assert shared(found, "2.weight[1]", 1, 4) == same([1, 4], *both[1]) | {"1.weight[1]": [1]}


def test_group_norm_cuts_channels_into_groups():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 1))
    found = known(model, torch.randn(2, 3, 5, 5))
    names = "0.weight[0]", "0.bias[0]", "1.weight[0]", "1.bias[0]", "2.weight[1]"
    assert shared(found, "0.weight[0]", 0, 1) == same([0, 1, 2], *names)
    assert shared(found, "0.weight[0]", 0, 3) == same([0, 3], *names)


@pytest.mark.parametrize("gate", [F.glu, lambda x: torch.mul(*x.chunk(2, dim=-1))])
def test_gates_and_values_go_together(gate):
    model = Made(lambda model, x: model.b(gate(model.a(x))), a=nn.Linear(3, 8), b=nn.Linear(4, 2))
    expected = same([1, 5], "a.weight[0]", "a.bias[0]") | {"b.weight[1]": [1]}
    assert group(model, (torch.randn(2, 3),), "a.weight[0]", 5) == expected


def test_squeeze_and_excitation_belongs_to_its_channels():
    def forward(model, x):
        x = model.conv(x)
        gate = model.up(torch.relu(model.down(x.mean((2, 3))))).sigmoid()
        return model.head((x * gate[:, :, None, None]).amax((2, 3)))

    model = Made(forward, conv=nn.Conv2d(3, 6, 3), down=nn.Linear(6, 2), up=nn.Linear(2, 6), head=nn.Linear(6, 4))
    inputs = (torch.randn(2, 3, 5, 5),)
    assert group(model, inputs, "up.weight[0]", 4) == weights(4, "conv", "down", "head") | weights(4, "up")
    assert group(model, inputs, "up.weight[1]", 1) == weights(1, "down", "up")


def test_pixel_shuffle_makes_a_channel_of_four():
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2), nn.Conv2d(3, 2, 1))
    found = known(model, torch.randn(2, 3, 4, 4))
    expected = same([4, 5, 6, 7], "0.weight[0]", "0.bias[0]") | {"2.weight[1]": [1]}
    assert shared(found, "2.weight[1]", 1) == expected
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.PixelUnshuffle(2), nn.Conv2d(12, 2, 1))
    found = known(model, torch.randn(2, 3, 4, 4))
    assert shared(found, "0.weight[0]", 1) == weights(1, "0") | {"2.weight[1]": [4, 5, 6, 7]}


def fused(model, x):
    q, k, v = model.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return model.out((q @ k.transpose(-2, -1)).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


def test_heads_of_a_fused_projection():
    model = Made(fused, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8))
    found = known(model, torch.randn(2, 5, 8))
    rows = "qkv.weight[0]", "qkv.bias[0]"
    head = [row + part for part in (0, 8, 16) for row in (4, 5, 6, 7)]
    assert shared(found, "out.weight[1]", 4, 5) == same(head, *rows) | {"out.weight[1]": [4, 5, 6, 7]}
    place = [1, 5, 9, 13, 17, 21]
    assert shared(found, "out.weight[1]", 1, 5) == same(place, *rows) | {"out.weight[1]": [1, 5]}
    assert [len(components) for components in found.components("qkv.weight", 0)] == [3] * 24


def separate(attend):
    def forward(model, x):
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (model.q, model.k, model.v))
        return model.out(attend(q, k, v).transpose(1, 2).flatten(2))

    return Made(forward, q=nn.Linear(8, 6), k=nn.Linear(8, 6), v=nn.Linear(8, 10), out=nn.Linear(10, 8))


def by_hand(q, k, v):
    return torch.einsum("bhnm,bhmd->bhnd", torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1), v)


@pytest.mark.parametrize("attend", [by_hand, F.scaled_dot_product_attention])
def test_heads_of_separate_projections(attend):
    found = known(separate(attend), torch.randn(2, 5, 8))
    queries, values = ("q.weight[0]", "q.bias[0]", "k.weight[0]", "k.bias[0]"), ("v.weight[0]", "v.bias[0]")
    head = same([3, 4, 5], *queries) | same([5, 6, 7, 8, 9], *values, "out.weight[1]")
    assert shared(found, "q.weight[0]", 3, 4) == head
    assert shared(found, "q.weight[0]", 1, 4) == same([1, 4], *queries)
    assert shared(found, "v.weight[0]", 1, 6) == same([1, 6], *values, "out.weight[1]")
    assert not found.partners("q.weight", 1) & found.partners("q.weight", 0)


def repeating(q, k, v):
    k, v = (x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def grouping(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


@pytest.mark.parametrize("attend", [repeating, grouping])
def test_query_heads_that_share_keys_are_groups(attend):
    def forward(model, x):
        q, k, v = (layer(x).unflatten(-1, (-1, 3)).transpose(1, 2) for layer in (model.q, model.k, model.v))
        return attend(q, k, v).transpose(1, 2).flatten(2)

    found = known(Made(forward, q=nn.Linear(8, 12), k=nn.Linear(8, 6), v=nn.Linear(8, 6)), torch.randn(2, 5, 8))
    queries, keys = ("q.weight[0]", "q.bias[0]"), ("k.weight[0]", "k.bias[0]")
    group = same([6, 7, 8, 9, 10, 11], *queries) | same([3, 4, 5], *keys, "v.weight[0]", "v.bias[0]")
    assert shared(found, "k.weight[0]", 3, 4) == group
    assert shared(found, "k.weight[0]", 0, 3) == same([0, 3, 6, 9], *queries) | same([0, 3], *keys)
    assert shared(found, "q.weight[0]", 0, 7) == same([0, 1, 2, 6, 7, 8], *queries)
    assert len(set(found.components("q.weight", 0))) == 12


@pytest.mark.filterwarnings("ignore:.*enable_nested_tensor")
def test_a_transformer_of_torch():
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    found = known(nn.TransformerEncoder(layer, 2), torch.randn(2, 5, 8))
    attention = "layers.0.self_attn.in_proj_weight[0]", "layers.0.self_attn.in_proj_bias[0]"
    head = [row + part for part in (0, 8, 16) for row in (4, 5, 6, 7)]
    out = "layers.0.self_attn.out_proj.weight[1]"
    assert shared(found, out, 4, 5) == same(head, *attention) | {out: [4, 5, 6, 7]}
    stream = found.partners("layers.0.norm1.weight", 0)
    assert {("layers.1.linear1.weight", 1), ("layers.1.self_attn.in_proj_weight", 1)} < stream
    assert all(len(components) == 1 for components in found.components("layers.1.linear2.weight", 0))


def test_rotated_halves_go_in_pairs():
    def forward(model, x):
        x = model.q(x)
        one, other = x.chunk(2, dim=-1)
        return x * 0.6 + torch.cat([-other, one], dim=-1) * 0.8

    assert group(Made(forward, q=nn.Linear(3, 6)), (torch.randn(2, 3),), "q.bias[0]", 4) == same(
        [1, 4], "q.weight[0]", "q.bias[0]"
    )


def test_a_tied_embedding_goes_by_its_first_name():
    model = Made(
        lambda model, x: model.head(model.mid(model.embed(x))),
        embed=nn.Embedding(7, 4), mid=nn.Linear(4, 4), head=nn.Linear(4, 7),
    )  # fmt: skip
    model.head.weight = model.embed.weight
    inputs = (torch.randint(7, (2, 5)),)
    expected = same([1], "embed.weight[1]", "mid.weight[1]", "mid.weight[0]", "mid.bias[0]")
    assert group(model, inputs, "head.weight[1]", 1) == expected
    assert group(model, inputs, "embed.weight[0]", 3) == same([3], "embed.weight[0]", "head.bias[0]")


def test_a_layer_used_twice_has_its_inputs_for_outputs():
    model = Made(
        lambda model, x: model.b(model.a(model.a(model.stem(x)))),
        stem=nn.Linear(3, 4), a=nn.Linear(4, 4), b=nn.Linear(4, 2),
    )  # fmt: skip
    expected = weights(2, "stem", "a", "b") | weights(2, "a")
    assert group(model, (torch.randn(2, 3),), "a.bias[0]", 2) == expected


def test_einsum_and_bare_parameters():
    def forward(model, x):
        hidden = torch.einsum("bi,hio->bho", x, model.w) * model.scale + model.shift[:, None]
        return torch.einsum("bho,hok->bk", hidden, model.u)

    shapes = {"w": (2, 3, 4), "scale": (4,), "shift": (2,), "u": (2, 4, 5)}
    model = Made(forward, **{name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()})
    inputs = (torch.randn(2, 3),)
    assert group(model, inputs, "scale[0]", 3) == same([3], "w[2]", "scale[0]", "u[1]")
    assert group(model, inputs, "shift[0]", 1) == same([1], "w[0]", "shift[0]", "u[0]")


def test_a_channel_shuffle_exchanges_groups_and_the_rest():
    def forward(model, x):
        x = model.a(x)
        return model.b(x.view(2, 2, 3, 4, 4).transpose(1, 2).reshape(2, 6, 4, 4))

    found = known(Made(forward, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1)), torch.randn(2, 3, 4, 4))
    rows = "a.weight[0]", "a.bias[0]"
    assert shared(found, "a.weight[0]", 3, 4) == same([3, 4, 5], *rows) | {"b.weight[1]": [1, 3, 5]}
    assert shared(found, "a.weight[0]", 1, 4) == same([1, 4], *rows) | {"b.weight[1]": [2, 3]}
    assert found.components("b.weight", 1)[5] == found.components("a.weight", 0)[5]


def test_split_roll_flip_and_cat_move_units():
    def forward(model, x):
        one, other = model.a(x).split([2, 4], dim=1)
        return model.b(torch.cat([other.flip(1), one.roll(1, 1)], dim=1))

    model = Made(forward, a=nn.Linear(3, 6), b=nn.Linear(6, 2))
    inputs = (torch.randn(2, 3),)
    for row, column in enumerate([5, 4, 3, 2, 1, 0]):
        assert group(model, inputs, "a.weight[0]", row) == weights(row, "a") | {"b.weight[1]": [column]}


def test_writes_into_slices_label_the_whole():
    def forward(model, x):
        whole = torch.zeros(2, 7)
        whole[:, 3:] = model.a(x)
        whole[:, :3].add_(model.b(x))
        return model.c(whole)

    model = Made(forward, a=nn.Linear(3, 4), b=nn.Linear(3, 3), c=nn.Linear(7, 2))
    inputs = (torch.randn(2, 3),)
    assert group(model, inputs, "a.bias[0]", 1) == weights(1, "a") | {"c.weight[1]": [4]}
    assert group(model, inputs, "b.bias[0]", 1) == weights(1, "b", "c")


def test_one_axis_split_in_two_ways_is_split_into_what_both_have():
    def forward(model, x):
        x = model.a(x)
        one = x.unflatten(1, (2, 6)) * model.two[:, None]
        other = x.unflatten(1, (6, 2)) * model.six[:, None]
        return one.flatten(1) + other.flatten(1)

    shapes = {"two": (2,), "six": (6,)}
    model = Made(forward, a=nn.Linear(3, 12), **{n: nn.Parameter(torch.randn(s)) for n, s in shapes.items()})
    found = known(model, torch.randn(2, 3))
    rows = "a.weight[0]", "a.bias[0]"
    assert shared(found, "two[0]", 1) == same([6, 7, 8, 9, 10, 11], *rows) | {"two[0]": [1], "six[0]": [3, 4, 5]}
    assert shared(found, "six[0]", 1, 4) == same([2, 3, 8, 9], *rows) | {"six[0]": [1, 4]}
    assert len(found.components("six", 0)[0]) == 2


def test_units_shuffled_half_by_half_are_those_of_both_halves():
    """A second shuffle over units of the first one, in a half, and others, in the other half."""

    def forward(model, x):
        x = F.channel_shuffle(model.a(x), 2)
        return model.c(F.channel_shuffle(torch.cat([x[:, :4], model.b(x[:, 4:])], dim=1), 2))

    found = known(
        Made(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(8, 2, 1)), torch.ones(2, 3, 2, 2)
    )
    kept = [found.components("a.weight", 0)[row] for row in (0, 4, 1, 5)]
    made = found.components("b.weight", 0)
    assert found.components("c.weight", 1) == [part for pair in zip(kept, made, strict=True) for part in pair]
    assert len(set(kept + made)) == 8
    assert found.components("b.weight", 1) == [found.components("a.weight", 0)[row] for row in (2, 6, 3, 7)]


def test_a_stream_through_a_shuffle_has_its_groups_twice():
    def forward(model, x):
        x = model.stem(x)
        return x + model.b(F.channel_shuffle(model.a(x), 3))

    model = Made(forward, stem=nn.Conv2d(3, 6, 1), a=nn.Conv2d(6, 18, 1, groups=3), b=nn.Conv2d(18, 6, 1, groups=3))
    found = known(model, torch.randn(2, 3, 2, 2))
    groups = [found.components("stem.weight", 0)[row] - found.components("a.weight", 1)[0] for row in (0, 2, 4)]
    rest = [components - groups[0] for components in found.components("a.weight", 0)[:2]]
    rows = [one | other | inner for one in groups for other in groups for inner in rest]
    assert found.components("a.weight", 0) == rows
    assert found.components("b.weight", 1) == [group | inner for inner in rest for group in groups]


def test_numbered_data_keeps_apart_what_was_merged_with_it():
    """Heads x windows of one tensor meet heads x data of another one."""

    def forward(model, x):
        q, k = (layer(x).unflatten(-1, (3, 2)).transpose(1, 2) for layer in (model.q, model.k))
        scores = (q.unflatten(0, (2, 2)) * model.window[:, None, None, None]).flatten(0, 1) @ k.transpose(-2, -1)
        return scores * model.head[:, None, None]

    parameters = {"window": nn.Parameter(torch.ones(2)), "head": nn.Parameter(torch.ones(3))}
    model = Made(forward, q=nn.Linear(5, 6), k=nn.Linear(5, 6), **parameters)
    found = known(model, torch.randn(4, 5, 5))
    rows = "q.weight[0]", "q.bias[0]", "k.weight[0]", "k.bias[0]"
    assert shared(found, "head[0]", 1) == same([2, 3], *rows) | {"head[0]": [1]}
    assert shared(found, "window[0]", 1) == {"window[0]": [1]}
    assert shared(found, "q.weight[0]", 0, 2) == same([0, 2, 4], *rows)


def test_what_is_added_to_its_neighbour_is_one():
    """Spline bases: the knots of a grid become one, and so do the coefficients of the bases between them."""

    def forward(model, x):
        x = model.a(x).unsqueeze(-1)
        bases = (x >= model.grid[:-1]) * (x < model.grid[1:]) * x
        return F.linear(bases.flatten(1), model.spline.flatten(1))

    parameters = {"grid": nn.Parameter(torch.arange(4.0)), "spline": nn.Parameter(torch.ones(2, 5, 3))}
    found = known(Made(forward, a=nn.Linear(4, 5), **parameters), torch.randn(2, 4))
    assert shared(found, "a.weight[0]", 2) == weights(2, "a") | {"spline[1]": [2]}
    assert shared(found, "grid[0]", 0, 3) == {"grid[0]": [0, 1, 2, 3], "spline[2]": [0, 1, 2]}


def test_recurrent_layers_have_their_hidden_units_in_all_gates():
    model = nn.LSTM(3, 4, batch_first=True)
    rows = [f"{name}_l0[0]" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    expected = same([1, 5, 9, 13], *rows) | {"weight_hh_l0[1]": [1]}
    assert group(model, (torch.randn(2, 5, 3),), "weight_hh_l0[1]", 1) == expected


def test_a_permutation_moves_units_and_a_lookup_makes_data():
    def forward(model, x, index):
        return model.b(model.a(x)[:, [2, 0, 1]]) + model.table[index]

    model = Made(forward, a=nn.Linear(3, 3), b=nn.Linear(3, 2), table=nn.Parameter(torch.randn(5, 2)))
    inputs = torch.randn(2, 3), torch.tensor([1, 4])
    assert group(model, inputs, "a.weight[0]", 2) == weights(2, "a") | {"b.weight[1]": [0]}
    assert group(model, inputs, "table[1]", 1) == weights(1, "b") | {"table[1]": [1]}
    assert group(model, inputs, "table[0]", 1) == {"table[0]": [1]}


def test_an_operation_without_a_rule_is_named():
    model = Made(lambda model, x: torch.linalg.qr(model.a(x))[0], a=nn.Linear(3, 3))
    found = labels(model, torch.randn(3, 3))
    assert found.unknown == {"aten.linalg_qr.default"}
    assert named(found.unit_groups("a.weight", 0, 1)) == weights(1, "a")


@pytest.mark.parametrize(
    ("model", "inputs", "axis"),
    [
        (Made(fused, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)), torch.randn(2, 5, 8), ("out.weight", 1)),
        (separate(by_hand), torch.randn(2, 5, 8), ("q.weight", 0)),
        (nn.LSTM(3, 4, num_layers=2), torch.randn(5, 2, 3), ("weight_hh_l1", 1)),
        (nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 4, 1, groups=2), nn.Conv2d(4, 2, 1)),
         torch.randn(2, 3, 4, 4), ("0.weight", 0)),
    ],
)  # fmt: skip
def test_two_units_can_be_swapped(model, inputs, axis):
    """If two units of one kind lack nothing, exchanging them everywhere exchanges outputs at most."""
    found, states = known(model.eval(), inputs), model.state_dict()
    before = [output.sort(-1).values for output in tree_leaves(model(inputs))]
    kinds = {}
    for component in sorted(frozenset().union(*found.components(*axis))):
        members = found.members(component)
        kinds.setdefault(frozenset((name, len(members[name])) for name in members), []).append(members)
    for one, *_, other in kinds.values():
        for name, dim in one:
            order = torch.arange(states[name].shape[dim])
            order[one[name, dim] + other[name, dim]] = torch.tensor(other[name, dim] + one[name, dim])
            states[name].copy_(states[name].index_select(dim, order))
    after = [output.sort(-1).values for output in tree_leaves(model(inputs))]
    torch.testing.assert_close(after, before)
