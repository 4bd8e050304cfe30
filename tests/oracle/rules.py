"""The labels that the results of each operation get, and the labels that meet in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from oracle.table import Axes

if TYPE_CHECKING:
    from oracle.labels import Tracer


class Call:
    """One operation with its arguments by name and the tensors that it returned."""

    def __init__(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]):
        self.func, self.args, self.kwargs = func, args, kwargs
        name = func._schema.name.removeprefix("aten::")
        self.name = name if name.startswith("__") else name.rstrip("_")
        self.given = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        self.given |= {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        self.operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.geometry = [(tensor.shape, tensor.stride(), tensor.storage_offset()) for tensor in self.operands[:1]]
        self.results: list[Tensor] = []

    def __getitem__(self, name: str) -> Any:
        return self.given.get(name)


Rule = Callable[["Tracer", Call], list[Axes]]
RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return register


def meet(t: Tracer, shape: Sequence[int], *operands: tuple[Sequence[int], Axes]) -> Axes:
    """The labels of tensors that are broadcast to a shape and meet there."""
    result: Axes = [None] * len(shape)
    for sizes, axes in operands:
        for back in range(1, min(len(sizes), len(shape)) + 1):
            if sizes[-back] == shape[-back]:
                result[-back] = t.table.combine(result[-back], axes[-back])
    return result


@rule("copy fill masked_fill where prelu _prelu_kernel complex polar hardswish rsub floor_divide rrelu_with_noise "
      "_to_copy detach alias lift_fresh contiguous log_sigmoid_forward native_dropout dropout bernoulli zeros_like "
      "ones_like full_like rand_like randn_like empty_like _conj conj_physical _weight_norm_interface isclose "
      "__and__ __or__ __xor__ cumsum cumprod cummax cummin logcumsumexp softmax _softmax log_softmax _log_softmax "
      "_safe_softmax fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask")  # fmt: skip
def pointwise(t: Tracer, c: Call) -> list[Axes]:
    shapes = [(tensor.shape, t.axes(tensor)) for tensor in c.operands if tensor is not c["out"]]
    first = meet(t, c.results[0].shape, *shapes)
    return [first, *(meet(t, other.shape, (c.results[0].shape, first)) for other in c.results[1:])]


MERGING = {
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "view_copy",
    "flatten",
    "unfold",
    "im2col",
    "as_strided",
}
MERGING |= {"pixel_shuffle", "pixel_unshuffle"}


@rule("view _unsafe_view reshape _reshape_alias flatten unflatten permute transpose t numpy_T movedim expand squeeze "
      "unsqueeze select slice narrow unbind split split_with_sizes split_copy chunk unsafe_split unsafe_chunk "
      "unsafe_split_with_sizes tensor_split flip roll rot90 pixel_shuffle pixel_unshuffle channel_shuffle "
      "native_channel_shuffle diagonal diag_embed unfold im2col tril triu constant_pad_nd reflection_pad1d "
      "reflection_pad2d replicate_pad1d replicate_pad2d replicate_pad3d view_copy as_strided")  # fmt: skip
def moving(t: Tracer, c: Call) -> list[Axes]:
    source, (shape, strides, offset) = c.operands[0], c.geometry[0]
    axes = t.axes(source)

    def apply(full: Tensor) -> Any:
        if c.name == "as_strided":
            memory = torch.zeros(source.untyped_storage().nbytes() // source.element_size())
            memory.as_strided(shape, strides, offset).copy_(full)
            return memory.as_strided(*c.args[1:])
        return c.func(full.double().contiguous(), *c.args[1 : 2 if "pad" in c.name else None], **c.kwargs)

    found = t.table.move(t.table.fill(axes, shape) if c.name in MERGING else axes, shape, apply)
    result = [found[n] if n < len(found) else [None] * other.dim() for n, other in enumerate(c.results)]
    if c.name == "expand":  # the number of copies is a size of its own
        old, new = (1,) * (len(result[0]) - len(shape)) + tuple(shape), c.results[0].shape
        result[0] = [t.table.fresh(n) if o == 1 < n else v for o, n, v in zip(old, new, result[0], strict=True)]
    for axis in [axis for axis, size in enumerate(shape) if size == 1 and axes[axis] is not None]:
        for labels, other in zip(result, c.results, strict=True):
            for target in _targets(c, shape, axis, other.shape):
                labels[target] = axes[axis]
    return result


def _targets(c: Call, shape: Sequence[int], axis: int, new: Sequence[int]) -> list[int]:
    """Where an axis of size one went, if that can be said."""
    if c.name in ("permute", "transpose", "t", "numpy_T", "movedim"):
        probe = torch.empty(tuple(range(1, len(shape) + 1)), device="meta")
        return [c.func(probe, *c.args[1:], **c.kwargs).shape.index(axis + 1)]
    before = list(accumulate(new, mul, initial=1))
    fits = [n for n, size in enumerate(new) if size == 1 and before[n] == np.prod(shape[:axis])]
    return [axis] if axis in fits else fits[:1]


@rule("cat concat stack")
def joining(t: Tracer, c: Call) -> list[Axes]:
    tensors, dims = c["tensors"], c.results[0].dim()
    tensors = [tensor for tensor in tensors if tensor.shape != (0,)]
    dim = c["dim"] % dims
    columns = list(zip(*map(t.axes, tensors), strict=True))
    result = [None if c.name != "stack" and n == dim else t.table.combine(*v) for n, v in enumerate(columns)]
    if c.name == "stack":
        return [[*result[:dim], None, *result[dim:]]]
    vectors = [
        torch.zeros(n, dtype=torch.int64) if v is None else v
        for v, n in zip(columns[dim], [x.shape[dim] for x in tensors], strict=True)
    ]
    result[dim] = torch.cat(vectors)
    return [result]


@rule("sum mean amax amin max min prod var std var_mean std_mean norm linalg_vector_norm logsumexp any all argmax "
      "argmin median nanmedian nansum count_nonzero aminmax topk sort kthvalue mode argsort _fft_r2c _fft_c2r _fft_c2c "
      "avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d "
      "_adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d upsample_nearest2d "
      "upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d "
      "upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa view_as_complex view_as_real "
      "masked_select nonzero multinomial")  # fmt: skip
def dropping(t: Tracer, c: Call) -> list[Axes]:
    if isinstance(c["other"], Tensor):
        return pointwise(t, c)
    axes, dims = t.axes(c.operands[0]), c["dim"]
    spatial = [int(digit) for digit in "123" if f"{digit}d" in c.name]
    if spatial:  # a pool that is one wide leaves an axis as it is
        kernel = c["kernel_size"] or [0]
        dims = [d for d in range(-spatial[0], 0) if kernel[d % len(kernel)] != 1 or _resized(c, d)]
    elif dims is None and c.name.startswith("view_as"):
        return [[*axes, None] if c.name == "view_as_real" else axes[:-1]]
    elif dims is None or dims == []:
        dims = range(len(axes))
    dims = [d % max(len(axes), 1) for d in ([dims] if isinstance(dims, int) else dims)]
    kept = [None if n in dims else vector for n, vector in enumerate(axes)]
    left = [vector for n, vector in enumerate(axes) if n not in dims]
    return [kept if tensor.dim() == len(axes) else left if tensor.dim() == len(left) else [None] * tensor.dim()
            for tensor in c.results]  # fmt: skip


def _resized(c: Call, dim: int) -> bool:
    return c.results[0].shape[dim] != c.operands[0].shape[dim]


@rule("mm bmm addmm baddbmm addbmm mv addmv dot vdot _sparse_addmm _sparse_mm")
def product(t: Tracer, c: Call) -> list[Axes]:
    *start, one, other = c.operands[:3] if c.name.startswith(("add", "badd", "_sparse_add")) else c.operands[:2]
    a, b = t.axes(one), t.axes(other)
    t.table.combine(a[-1], b[-2 if len(b) > 1 else -1])
    result = [*(t.table.combine(*pair) for pair in zip(a[:-2], b[:-2], strict=False)), *a[-2:-1], *b[-1:][: len(b) - 1]]
    shape = c.results[0].shape
    return [meet(t, shape, (shape, result[-len(shape) :] if shape else []), *((x.shape, t.axes(x)) for x in start))]


@rule("convolution _convolution")
def convolution(t: Tracer, c: Call) -> list[Axes]:
    x, w, groups = t.axes(c["input"]), t.axes(c["weight"]), c["groups"]
    sizes, kernel = c["input"].shape, c["weight"].shape
    over_input, inner = t.table.split(x[1], groups)
    over_weight, first = t.table.split(w[0], groups)
    over = t.table.combine(over_weight, over_input)
    t.table.combine(inner, first if c["transposed"] else w[1])
    if c["transposed"]:
        out = t.table.merge(groups, over, kernel[1], w[1])
    else:
        out = t.table.combine(w[0], t.table.merge(groups, over, kernel[0] // groups, first))
    out = t.table.combine(out, *t.axes(c["bias"]))
    spatial: Axes = [None] * (len(sizes) - 2)
    for n in range(len(spatial)):
        if c["padding"][n % len(c["padding"])] or c["transposed"]:
            continue
        if kernel[n + 2] == 1 and sizes[n + 2] == c.results[0].shape[n + 2]:
            spatial[n] = x[n + 2]  # a linear layer at each place
        elif kernel[n + 2] == sizes[n + 2]:
            t.table.combine(x[n + 2], w[n + 2])  # a linear layer over all places
    return [[x[0], out, *spatial]]


@rule("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update "
      "_batch_norm_no_update batch_norm cudnn_batch_norm native_group_norm")  # fmt: skip
def channel_norm(t: Tracer, c: Call) -> list[Axes]:
    first, channels, *rest = t.axes(c["input"])
    states = [t.axes(c[name]) for name in ("weight", "bias", "running_mean", "running_var")]
    channels = t.table.combine(channels, *(vector for axes in states for vector in axes))
    t.table.split(channels, c["group"] or 1)
    return [[first, channels, *rest]]


@rule("native_layer_norm layer_norm rms_norm _fused_rms_norm")
def layer_norm(t: Tracer, c: Call) -> list[Axes]:
    shape = c["input"].shape
    states = [(c[name].shape, t.axes(c[name])) for name in ("weight", "bias") if c[name] is not None]
    return [meet(t, shape, (shape, t.axes(c["input"])), *states)]


@rule("_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math scaled_dot_product_attention "
      "_scaled_dot_product_efficient_attention _scaled_dot_product_fused_attention_overrideable")  # fmt: skip
def attention(t: Tracer, c: Call) -> list[Axes]:
    q, k, v = (t.axes(c[name]) for name in ("query", "key", "value"))
    t.table.combine(q[-1], k[-1])
    lengths = q[-2], t.table.combine(k[-2], v[-2])
    batch = c["query"].shape[:-2]
    lead: Axes = list(q[:-2])
    for axes, shape in ((k, c["key"].shape), (v, c["value"].shape)):
        for n, size in enumerate(batch):
            if axes[n] is not None and (shape[n] > 1 or size == 1):  # fewer heads than queries: each for several
                copies = t.table.fresh(size // shape[n])
                lead[n] = t.table.combine(lead[n], t.table.merge(shape[n], axes[n], size // shape[n], copies))
    mask = c["attn_mask"] if c["attn_mask"] is not None else c["attn_bias"]
    if mask is not None:
        scores = (*batch, c["query"].shape[-2], c["key"].shape[-2])
        *lead, queries, _ = meet(t, scores, (scores, [*lead, *lengths]), (mask.shape, t.axes(mask)))
        lengths = queries, None
    return [[*lead, lengths[0], v[-1]]]


@rule("embedding embedding_bag _embedding_bag _embedding_bag_forward_only")
def embedding(t: Tracer, c: Call) -> list[Axes]:
    places = t.axes(c["indices"]) if c.name == "embedding" else [None]
    return [[*places, t.axes(c["weight"])[1]]]


def _indices(c: Call) -> list[Tensor | None]:
    """The index of each axis, as `x[...]` would be given them; a mask over several axes comes once for each."""
    if "dim" in c.given:
        indices = [None] * (c["dim"] % c["self"].dim()) + [c["index"]]
    else:
        indices = [i for i in c["indices"] for _ in range(i.dim() if i is not None and i.dtype == torch.bool else 1)]
    return indices + [None] * (c["self"].dim() - len(indices))


def _picks_evenly(index: Tensor) -> bool:
    """Whether every position picked is picked equally often: otherwise it is a lookup in a table."""
    return index.dtype == torch.bool or len(set(torch.unique(index, return_counts=True)[1].tolist())) <= 1


@rule("index index_select _unsafe_index index_put index_add index_copy _index_put_impl _unsafe_index_put")
def indexing(t: Tracer, c: Call) -> list[Axes]:
    axes, indices = t.axes(c["self"]), _indices(c)
    taken = [axis for axis, index in enumerate(indices) if index is not None]
    kept = [axis for axis, index in enumerate(indices) if index is None]
    index = indices[taken[0]]
    picks = len(taken) == 1 and index.dim() == 1 and id(index) not in t.data and _picks_evenly(index)
    at = taken[0] if taken[-1] - taken[0] < len(taken) else 0
    width = 1 if index.dtype == torch.bool else max(indices[axis].dim() for axis in taken)
    inner: Axes = [axes[taken[0]][index] if picks and axes[taken[0]] is not None else None]
    inner = inner if picks else [None] * width
    found: Axes = [*(axes[axis] for axis in kept[:at]), *inner, *(axes[axis] for axis in kept[at:])]
    values = c["values"] if c["values"] is not None else c["source"]
    if values is None:
        return [found]
    picked = c["self"][tuple(slice(None) if i is None else i for i in _indices(c)[: taken[0] + 1])] if picks else None
    sizes = [c["self"].shape[axis] for axis in kept]
    shape = [*sizes[:at], *(picked.shape[at : at + 1] if picks else [-1] * width), *sizes[at:]]
    found = meet(t, shape, (shape, found), (values.shape, t.axes(values)))
    result = list(axes)
    for axis, vector in zip(kept, found[:at] + found[at + width :], strict=True):
        result[axis] = vector
    if picks and found[at] is not None:
        written = torch.zeros(c["self"].shape[taken[0]], dtype=torch.int64).index_put((index,), found[at])
        result[taken[0]] = t.table.combine(axes[taken[0]], written)
    return [result]


@rule("gather take_along_dim scatter scatter_add scatter_reduce index_fill masked_scatter")
def picking(t: Tracer, c: Call) -> list[Axes]:
    axes, new = t.axes(c["self"]), c.results[0].shape
    if c.name in ("gather", "take_along_dim"):
        dim = c["dim"] % max(len(axes), 1)
        return [[None if n == dim or v is None else v[: new[n]] for n, v in enumerate(axes)]]
    source = c["src"]
    if source is None:
        return [axes]
    shape = [-1 if n == c["dim"] % len(axes) else size for n, size in enumerate(new)]
    met = meet(t, shape, (new, axes), (source.shape, t.axes(source)))
    return [[vector if met[n] is None else met[n] for n, vector in enumerate(axes)]]


@rule("glu")
def glu(t: Tracer, c: Call) -> list[Axes]:
    axes = list(t.axes(c["self"]))
    if axes[c["dim"]] is not None:
        axes[c["dim"]] = t.table.combine(*axes[c["dim"]].chunk(2))
    return [axes]


@rule("_trilinear")
def trilinear(t: Tracer, c: Call) -> list[Axes]:
    operands = []
    for n in "123":
        axes, shape = list(t.axes(c["i" + n])), list(c["i" + n].shape)
        for axis in sorted(c["expand" + n]):
            axes.insert(axis, None)
            shape.insert(axis, 1)
        operands.append((shape, axes))
    shape = [max(sizes) for sizes in zip(*(shape for shape, _ in operands), strict=True)]
    return [[vector for n, vector in enumerate(meet(t, shape, *operands)) if n not in c["sumdim"]]]


@rule("_cdist_forward _euclidean_dist")
def distances(t: Tracer, c: Call) -> list[Axes]:
    one, other = (t.axes(operand) for operand in c.operands)
    t.table.combine(one[-1], other[-1])
    return [[*map(t.table.combine, one[:-2], other[:-2]), one[-2], other[-2]]]


@rule("col2im grid_sampler_2d grid_sampler_3d")
def channels(t: Tracer, c: Call) -> list[Axes]:
    axes, new = t.axes(c.operands[0]), c.results[0].shape
    channel = axes[-2] if c.name == "col2im" else axes[1]
    if c.name == "col2im":
        channel = t.table.split(channel, new[-3])[0] if channel is not None else None
        return [[*axes[:-2], channel, None, None]]
    return [[axes[0], channel, *[None] * (len(new) - 2)]]


@rule("_pack_padded_sequence _pad_packed_sequence")
def packing(t: Tracer, c: Call) -> list[Axes]:
    first = c.results[0].dim() - 1
    return [[*[None] * first, t.axes(c.operands[0])[-1]]]
