"""Stand-ins for the results of expensive operations: right shape, type and layout, but zeros for entries.

What a trace learns depends on sizes, not on values, unless the model looks at them. So it need not compute
convolutions and matrix products; where the model does look, the trace runs again with values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from growkit.structure.guard import storage_of, written
from growkit.structure.operations import facts_of

__all__ = ["Runner", "ValuesNeeded", "hollow", "passed_on"]

aten = torch.ops.aten


class ValuesNeeded(Exception):  # noqa: N818  (no error: the pass starts again)
    """The model looks at values that were not computed."""


class Runner:
    """Runs the operations of one pass.

    Only what depends on the inputs is stood in for. What a model works out once from its parameters, and keeps
    somewhere, is computed.

    Args:
        inputs: of the model.
        values: whether to compute everything; else stand-ins take the place of what is expensive.

    Attributes:
        lacking: whether the pass looked at values that were not computed.
    """

    def __init__(self, inputs: Iterable[Tensor] = (), *, values: bool) -> None:
        self._values = values
        # Identities of storages: of what depends on the inputs, and of stand-ins and what depends on them.
        self._data = {storage_of(tensor) for tensor in inputs}
        self._hollow: set[int | None] = set()
        self.lacking = False

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of an operation, or its stand-in.

        Raises:
            ValuesNeeded: it looks at values that were not computed.
        """
        if self._values:
            return func(*args, **kwargs)
        facts = facts_of(func)
        # The identity of a storage that was freed comes again, perhaps as that of a number in the code.
        storages = [] if facts.packet is aten.lift_fresh else _storages([*args, *kwargs.values()])
        if self._data.isdisjoint(storages):
            out = func(*args, **kwargs)
            self._data.difference_update(made := _storages(out))
            self._hollow.difference_update(made)
            return out
        if facts.decides or facts.foreign or facts.packet in _LOOKING:
            self.look(_masks_in(args) if facts.packet is aten.index else [args, *kwargs.values()])
        out = hollow(facts.packet, args) if not kwargs else None
        tainted = out is not None or not self._hollow.isdisjoint(storages)
        if tainted and out is None and not kwargs and not self._hollow.isdisjoint(_storages(args[0])):
            out = passed_on(facts.packet, args)
        if out is None:
            out = func(*args, **kwargs)
        self._mark([*_storages(out), *_storages(written(func, args, kwargs))], tainted=tainted)
        return out

    def _mark(self, storages: list[int | None], *, tainted: bool) -> None:
        """Note what storages depend on, now that they hold a result."""
        self._data.update(storages)
        if not tainted:
            self._hollow.difference_update(storages)
        elif None in storages:
            self._stop()  # it could not be told from one that was computed
        else:
            self._hollow.update(storages)

    def look(self, values: Any) -> None:
        """Stop the pass if values are looked at that were not computed.

        Raises:
            ValuesNeeded: they were not.
        """
        if self._hollow and not self._hollow.isdisjoint(_storages(values)):
            self._stop()

    def _stop(self) -> NoReturn:
        self.lacking = True
        raise ValuesNeeded


def _storages(value: Any) -> list[int | None]:
    """Return the identities of the storages of the tensors in a value."""
    if isinstance(value, Tensor):
        return [storage_of(value)]
    if not isinstance(value, (list, tuple)):
        return []
    found: list[int | None] = []
    for child in value:
        if isinstance(child, Tensor):
            found.append(storage_of(child))
        elif isinstance(child, (list, tuple)):
            found += _storages(child)
    return found


# Operations that look at values without saying so.
_LOOKING = {
    *(aten.tensor_split, aten._pack_padded_sequence, aten._to_sparse, aten._nnz, aten._coalesce, aten.multinomial),
    *(aten._linalg_check_errors, aten.bincount, aten.narrow, aten.bernoulli),
}


def _masks_in(args: tuple[Any, ...]) -> list[Tensor]:
    """Return the masks that a tensor is indexed with."""
    return [index for index in args[1] if isinstance(index, Tensor) and index.dtype in {torch.bool, torch.uint8}]


def hollow(packet: Any, args: tuple[Any, ...]) -> Tensor | tuple[Tensor, ...] | None:
    """Return the stand-in for the result of an operation, or None if it has to be computed or would fail."""
    shape_of = _SHAPES.get(packet)
    if shape_of is None:
        return None
    tensors = [argument for argument in args if isinstance(argument, Tensor)]
    first = tensors[0]
    if not _plain(first) or any(t.dtype != first.dtype or t.device != first.device for t in tensors):
        return None
    shape = shape_of(*args)
    return None if shape is None else torch.zeros(shape, dtype=first.dtype, device=first.device)


def passed_on(packet: Any, args: tuple[Any, ...]) -> Tensor | tuple[Tensor, ...] | None:
    """Return the stand-in for the result of an operation on a stand-in that looks like it: the same storage again.

    None if the operation has to be computed, perhaps since its first operand is not what its result looks like.
    """
    first = args[0]
    if packet in _IN_PLACE or packet in _POINTWISE:
        others = [argument for argument in args[1:] if isinstance(argument, Tensor)]
        if not _plain(first) or any(t.dtype != first.dtype or not _fits(t, first) for t in others):
            return None
        return first if packet in _IN_PLACE else first.detach()  # type: ignore[no-any-return]
    if packet is aten.native_batch_norm and not args[5] and _plain(first):
        return first.detach(), first.new_empty(0), first.new_empty(0)
    return None


def _fits(operand: Tensor, result: Tensor) -> bool:
    """Say whether a tensor can be broadcast to the shape of another one."""
    sizes = zip(operand.shape[::-1], result.shape[::-1], strict=False)
    return operand.dim() <= result.dim() and all(n in {1, m} for n, m in sizes)


def _plain(tensor: Tensor) -> bool:
    real = type(tensor) in {Tensor, nn.Parameter} and (tensor.is_floating_point() or tensor.is_complex())
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
) -> list[int] | None:
    dims = image.dim() - 2
    stride, padding, dilation, output_padding = (
        [*n] * dims if len(n) == 1 else [*n] for n in (stride, padding, dilation, output_padding)
    )
    shape = [image.shape[0], weight.shape[1] * groups if transposed else weight.shape[0]]
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if image.shape[1] != channels or (bias is not None and bias.shape != (shape[1],)):
        return None
    for n, k, s, p, d, o in zip(
        image.shape[2:], weight.shape[2:], stride, padding, dilation, output_padding, strict=True
    ):
        reach = d * (k - 1) + 1
        if o and o >= max(s, d):
            return None
        shape.append((n - 1) * s - 2 * p + reach + o if transposed else (n + 2 * p - reach) // s + 1)
    return shape if min(shape) > 0 else None


def _product(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    if a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        return None
    return *a.shape[:-1], b.shape[-1]


def _sum_with_product(bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> tuple[int, ...] | None:
    shape = _product(a, b)
    fits = shape is not None and all(n in {1, m} for n, m in zip(bias.shape[::-1], shape[::-1], strict=False))
    return shape if fits else None


# Operations on each entry whose result looks like the first operand, if the others can be broadcast to it.
_POINTWISE = {
    *(aten.relu, aten.gelu, aten.silu, aten.sigmoid, aten.tanh, aten.elu, aten.leaky_relu, aten.softplus),
    *(aten.hardtanh, aten.hardswish, aten.hardsigmoid, aten.mish, aten.exp, aten.neg, aten.clone, aten.clamp),
    *(aten.add, aten.sub, aten.mul, aten.div),
}
_IN_PLACE = {
    *(aten.relu_, aten.silu_, aten.elu_, aten.leaky_relu_, aten.hardtanh_, aten.hardswish_, aten.hardsigmoid_),
    *(aten.mish_, aten.add_, aten.sub_, aten.mul_, aten.div_),
}

_SHAPES: dict[Any, Callable[..., Sequence[int] | None]] = {
    aten.convolution: _convolved,
    aten.mm: _product,
    aten.addmm: _sum_with_product,
    aten.bmm: _product,
    aten.baddbmm: _sum_with_product,
}
