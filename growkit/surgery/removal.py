"""When units can be removed exactly. A probe cannot tell: a unit that is silent on it may speak on other inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from growkit.errors import SurgeryError
from growkit.structure import Slice, Structure, Width
from growkit.surgery.edits import Edit, Narrow

__all__ = ["check_removals"]


def check_removals(structure: Structure, edits: Sequence[Edit]) -> None:
    """Refuse removals that change what the model computes on some input.

    A unit can go if its outgoing weights are zero, if it is constant (its incoming matrices and kernels are zero; the
    probe tells whether the constant matters), or if it is a copy of the unit that takes over its outgoing weights.

    Raises:
        SurgeryError: a removed unit is in use.
    """
    tensors = structure.tensors
    for edit in edits:
        if not isinstance(edit, Narrow):
            continue
        width = structure[edit.width]
        for number, unit in enumerate(edit.remove):
            if edit.into:
                keeper = edit.into[number]
                fits = all(_alike(_entries(tensors, p, unit), _entries(tensors, p, keeper)) for p in width.incoming)
            else:
                keeper = None
                fits = _is_idle(tensors, width, unit, edit.remove)
            if not fits:
                raise SurgeryError(
                    f"{edit} changes what the model computes",
                    seen=f"unit {unit} is in use" if keeper is None else f"unit {unit} is no copy of unit {keeper}",
                    expected="removed units with zero outgoing or incoming weights, or copies of those in `into`",
                    advice="pass exact=False if the output may change",
                )


def _is_idle(tensors: dict[str, Tensor], width: Width, unit: int, removed: Sequence[int]) -> bool:
    """Say whether nobody listens to a unit but those that go with it, or whether it does not depend on its input."""
    if width.copies_only:
        return False  # a maximum, say, listens without any weight
    if width.outgoing and all(not bool(_heard(tensors, width, piece, unit, removed).any()) for piece in width.outgoing):
        return True
    matrices = [piece for piece in width.incoming if tensors[piece.parameter].dim() > 1]
    return bool(matrices) and all(not bool(_entries(tensors, piece, unit).any()) for piece in matrices)


def _heard(tensors: dict[str, Tensor], width: Width, piece: Slice, unit: int, removed: Sequence[int]) -> Tensor:
    """Return the outgoing entries of a unit; where removed units listen, as in recurrent layers, they do not count."""
    entries = _entries(tensors, piece, unit)
    for other in width.incoming:
        if other.parameter == piece.parameter and other.axis != piece.axis:
            going = torch.cat([other.index[each].flatten() for each in removed]).to(entries.device)
            entries = entries.index_fill(other.axis, going, 0)
    return entries


def _entries(tensors: dict[str, Tensor], piece: Slice, unit: int) -> Tensor:
    tensor = tensors[piece.parameter].detach()
    return tensor.index_select(piece.axis, piece.index[unit].to(tensor.device))


def _alike(a: Tensor, b: Tensor) -> bool:
    """Say whether two copies are still the same, up to the rounding of a few steps."""
    if not a.is_floating_point():
        return torch.equal(a, b)
    tolerance = 16 * torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)
