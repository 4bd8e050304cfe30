"""Stand-ins for the results of expensive operations: right shape, type and layout, but zeros for entries.

What a trace learns depends on sizes, not on values, unless the model looks at them. So it need not compute
convolutions and matrix products; where the model does look, the trace runs again with values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["ValuesNeeded", "hollow"]

aten = torch.ops.aten


class ValuesNeeded(Exception):  # noqa: N818  (no error: the pass starts again)
    """The model looks at values that were not computed."""


def hollow(packet: Any, args: tuple[Any, ...]) -> Tensor | tuple[Tensor, ...] | None:
    """Return the stand-in for the result of an operation, or None if it has to be computed."""
    if packet is aten.native_batch_norm and not args[5] and _plain(args[0]):
        return torch.zeros_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
    shape_of = _SHAPES.get(packet)
    if shape_of is None:
        return None
    model = args[0] if packet is not aten.addmm and packet is not aten.baddbmm else args[1]
    if not _plain(model):
        return None
    return torch.zeros(shape_of(*args), dtype=model.dtype, device=model.device)


def _plain(tensor: Any) -> bool:
    real = type(tensor) is Tensor and (tensor.is_floating_point() or tensor.is_complex())
    return real and tensor.is_contiguous()


def _convolved(  # noqa: PLR0913  (the arguments of aten.convolution)
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> list[int]:
    dims = image.dim() - 2
    stride, padding, dilation, output_padding = (
        [*n] * dims if len(n) == 1 else [*n] for n in (stride, padding, dilation, output_padding)
    )
    shape = [image.shape[0], weight.shape[1] * groups if transposed else weight.shape[0]]
    for n, k, s, p, d, o in zip(
        image.shape[2:], weight.shape[2:], stride, padding, dilation, output_padding, strict=True
    ):
        reach = d * (k - 1) + 1
        shape.append((n - 1) * s - 2 * p + reach + o if transposed else (n + 2 * p - reach) // s + 1)
    return shape


_SHAPES: dict[Any, Callable[..., Sequence[int]]] = {
    aten.convolution: _convolved,
    aten.mm: lambda a, b: (a.shape[0], b.shape[1]),
    aten.addmm: lambda bias, a, b, **_: (a.shape[0], b.shape[1]),
    aten.bmm: lambda a, b: (a.shape[0], a.shape[1], b.shape[2]),
    aten.baddbmm: lambda bias, a, b, **_: (a.shape[0], a.shape[1], b.shape[2]),
}
