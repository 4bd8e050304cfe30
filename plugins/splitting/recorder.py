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

from growkit_plugins.splitting.activations import PIECEWISE_LINEAR, SMOOTH

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

    Args:
        weights: of the layers, as the layers hold them.

    Attributes:
        records: the calls of each layer, by the identity of its weight.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.records: dict[int, list[Record]] = {id(weight): [] for weight in weights}
        # Outputs on their way to the activation; the tensors are kept so that their ids stay theirs.
        self._pending: dict[int, tuple[Tensor, Record]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; note what it means for the outputs under way."""
        kwargs = kwargs or {}
        taken = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and id(x) in self._pending]
        # An activation may work in place, so its input is kept beforehand.
        before = taken[0].detach().clone() if taken and _is_activation(func) else None
        out = func(*args, **kwargs)
        if (func is F.linear or func in _CONVOLUTIONS) and id(args[1]) in self.records:
            self._begin(func, args, out)
        if isinstance(out, (Tensor, tuple)):
            for tensor in taken:
                self._advance(tensor, func, args, kwargs, out, before)
        return out

    def _begin(self, func: Any, args: Any, out: Tensor) -> None:
        x, weight = args[0].detach(), args[1]
        if func is F.linear:
            record = Record(partial(x.flatten, 0, -2), channel=-1)
        else:
            record = Record(partial(_unfold, x, weight.shape[2:], *args[3:6]), channel=1)
        self.records[id(weight)].append(record)
        self._pending[id(out)] = out, record

    def _advance(self, tensor: Tensor, func: Any, args: Any, kwargs: Any, out: Any, before: Tensor | None) -> None:
        _, record = self._pending[id(tensor)]
        if record.activation is not None:
            record.trouble = "feeds more than its activation"
        elif before is not None:
            record.activation = partial(_pure(func), *args[1:], **{k: v for k, v in kwargs.items() if k != "inplace"})
            record.z, record.output = before, out
            record.piecewise_linear = func in PIECEWISE_LINEAR
            if out is tensor:
                del self._pending[id(tensor)]
        elif func is F.batch_norm and record.scale is None and not (norm := _batch_norm(args, kwargs))["training"]:
            scale = (norm["running_var"] + norm["eps"]).rsqrt()
            record.scale = (scale if norm["weight"] is None else norm["weight"] * scale).detach()
            del self._pending[id(tensor)]
            self._pending[id(out)] = out, record
        else:
            record.trouble = f"goes through {getattr(func, '__name__', func)} before a pointwise activation"


def _is_activation(func: Any) -> bool:
    return func in SMOOTH or func in PIECEWISE_LINEAR


def _pure(func: Any) -> Any:
    """Return the form of an activation that leaves its argument alone."""
    return {torch.relu_: torch.relu, Tensor.relu_: torch.relu}.get(func, func)


def _batch_norm(args: Any, kwargs: Any) -> dict[str, Any]:
    bound = signature(F.batch_norm).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _unfold(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """Return the patch under the kernel at every output position: (samples x positions, channels x kernel)."""
    image = len(kernel)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(0, 0)] * image if padding == "valid" else [(p, p) for p in padding]
    x = F.pad(x, [side for pair in reversed(sides) for side in pair])
    for axis, (size, step, spread) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + axis, spread * (size - 1) + 1, step)[..., ::spread]
    # (N, C, positions..., kernel...) -> (N, positions..., C, kernel...)
    return x.movedim(1, 1 + image).flatten(0, image).flatten(1)
