"""Follow the outputs of some layers through a batch norm to their activation, whether module or function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from growkit_plugins.splitting.functions import LINEAR, PIECEWISE_LINEAR, PRODUCTS, SMOOTH

__all__ = ["Record", "Recorder"]

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class Record:
    """One call of a layer.

    Attributes:
        patches: makes the inputs of every output position, shape (samples, dimension).
        channel: axis of the output that runs over the units.
        scale: of the batch norm behind the layer, shape (units,), or None.
        z: the pre-activations.
        output: the activations, part of the autograd graph.
        activation: the function between the two; None as long as none was seen.
        piecewise_linear: whether its second derivative needs a surrogate.
        trouble: why the units of this call are no neurons, or "".
    """

    def __init__(self, patches: Callable[[], Tensor], channel: int) -> None:
        self.patches, self.channel = patches, channel
        self.scale: Tensor | None = None
        self.z = self.output = torch.empty(0)
        self.activation: Callable[[Tensor], Tensor] | None = None
        self.piecewise_linear = False
        self.trouble = ""


class Recorder(TorchFunctionMode):
    """Records every call of some layers while it is active.

    Behind the activation only linear functions may follow until another layer sums over the units: splitting shares
    out what is summed, so the curvature must be that of everything before the sum.

    Args:
        weights: of the layers, as the layers hold them.

    Attributes:
        records: the calls of each layer, by the identity of its weight.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.records: dict[int, list[Record]] = {id(weight): [] for weight in weights}
        # Tensors on their way to an activation, and behind one. They are kept so that their ids stay theirs.
        self._before: dict[int, tuple[Tensor, Record]] = {}
        self._behind: dict[int, tuple[Tensor, tuple[Record, ...]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; note what it means for the outputs under way."""
        kwargs = kwargs or {}
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        before = [self._before[id(x)][1] for x in inputs if id(x) in self._before]
        behind = [record for x in inputs for record in self._behind.get(id(x), (x, ()))[1]]
        # An activation may work in place, so its input is kept beforehand.
        z = inputs[0].detach().clone() if before and _is_activation(func, args, kwargs) else None
        out = func(*args, **kwargs)
        outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if not outputs:
            return out  # a look at the shape, say
        for record in before:
            self._advance(record, func, args, kwargs, out, z)
        if behind:
            self._follow(behind, func, outputs)
        if func is F.linear or func in _CONVOLUTIONS:
            self._begin(func, args, kwargs, out)
        return out

    def _begin(self, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
        call = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation"), args, strict=False)) | kwargs
        x, weight = call["input"].detach(), call["weight"]
        if id(weight) not in self.records:
            return
        if func is F.linear:
            record = Record(partial(x.flatten, 0, -2), channel=-1)
        else:
            geometry = [call.get("stride", 1), call.get("padding", 0), call.get("dilation", 1)]
            record = Record(partial(_unfold, x, weight.shape[2:], *geometry), channel=1)
        self.records[id(weight)].append(record)
        self._before[id(out)] = out, record

    def _advance(self, record: Record, func: Any, args: Any, kwargs: Any, out: Any, z: Tensor | None) -> None:
        """Follow an output of a layer to its activation."""
        if record.activation is not None:
            record.trouble = "feeds more than its activation"
        elif z is not None:
            record.activation, record.z, record.output = _bind(func, args[1:], kwargs), z, out
            record.piecewise_linear = func in PIECEWISE_LINEAR
            self._before.pop(id(out), None)
            self._behind[id(out)] = out, (record,)
        elif func is F.batch_norm and record.scale is None and not (norm := _batch_norm(args, kwargs))["training"]:
            scale = (norm["running_var"] + norm["eps"]).rsqrt()
            record.scale = (scale if norm["weight"] is None else norm["weight"] * scale).detach()
            self._before[id(out)] = out, record
        else:
            record.trouble = f"goes through {_name(func)} before a pointwise activation"

    def _follow(self, records: list[Record], func: Any, outputs: list[Tensor]) -> None:
        """Follow what comes behind activations to the next sum over the units."""
        if func is F.linear or func in _CONVOLUTIONS:
            return
        for record in records:
            if func not in LINEAR or (func in PRODUCTS and records.count(record) > 1):
                record.trouble = f"goes through {_name(func)} behind its activation"
        for out in outputs:
            self._behind[id(out)] = out, tuple(records)


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", func))


def _is_activation(func: Any, args: Any, kwargs: Any) -> bool:
    if func is F.hardtanh:  # which is what nn.ReLU6 calls
        return (args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)) == 0
    return func in SMOOTH or func in PIECEWISE_LINEAR


def _bind(func: Any, rest: Any, kwargs: Any) -> Callable[[Tensor], Tensor]:
    """Return an activation as a function of its input alone that leaves its input as it is."""
    pure = {torch.relu_: torch.relu, Tensor.relu_: torch.relu}.get(func, func)
    options = {key: value for key, value in kwargs.items() if key not in {"inplace", "input"}}
    return lambda z: pure(z, *rest, **options)


def _batch_norm(args: Any, kwargs: Any) -> dict[str, Any]:
    bound = signature(F.batch_norm).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _unfold(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """Return the patch under the kernel at every output position: (samples x positions, channels x kernel)."""
    image = len(kernel)
    stride, dilation = ([v] * image if isinstance(v, int) else v for v in (stride, dilation))
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        each = [0] * image if padding == "valid" else [padding] * image if isinstance(padding, int) else padding
        sides = [(p, p) for p in each]
    x = F.pad(x, [side for pair in reversed(sides) for side in pair])
    for axis, (size, step, spread) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + axis, spread * (size - 1) + 1, step)[..., ::spread]
    # (N, C, positions..., kernel...) -> (N, positions..., C, kernel...)
    return x.movedim(1, 1 + image).flatten(0, image).flatten(1)
