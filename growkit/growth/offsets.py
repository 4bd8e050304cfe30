"""Offsets: what a candidate adds to the units it touched, once the function-preserving edit is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from growkit.errors import SurgeryError
from growkit.growth.candidate import Candidate
from growkit.structure import Slice, Structure, Width
from growkit.structure.dimensions import leaves
from growkit.surgery import Change, Widen

__all__ = ["add_offsets", "check_offsets"]


def check_offsets(structure: Structure, candidate: Candidate) -> None:
    """Refuse offsets that do not fit, before anything is touched.

    Raises:
        SurgeryError: offsets of something that is no `Widen`, of a parameter with no incoming slice of the width, of
            the wrong shape, or not finite.
    """
    if not candidate.offsets:
        return
    edit = candidate.edit
    for name, offset in candidate.offsets.items():
        piece = _incoming(structure[edit.width]).get(name) if isinstance(edit, Widen) else None
        if not isinstance(edit, Widen) or piece is None:
            raise SurgeryError(
                f"the candidate {edit} has offsets for {name!r}, which holds none of the units it adds",
                seen=name,
                expected="parameters with incoming slices of the width that is widened",
                advice="`structure[width].incoming` lists them",
            )
        expected = [axis.expr.size for axis in structure.axes[name]]
        expected[piece.axis] = (2 * len(edit.copies) + edit.new) * piece.multiplicity
        if list(offset.shape) != expected or not bool(offset.isfinite().all()):
            raise SurgeryError(
                f"the candidate {edit} has offsets for {name!r} that cannot be added",
                seen=f"shape {tuple(offset.shape)}" if list(offset.shape) != expected else "NaN or infinite entries",
                expected=f"finite numbers of shape {tuple(expected)}: originals, copies, new units along axis "
                f"{piece.axis}",
                advice="see growkit.Candidate.offsets",
            )


@torch.no_grad()
def add_offsets(structure: Structure, candidates: Sequence[Candidate], change: Change) -> None:
    """Add the offsets of all candidates to the changed parameters, in place.

    Args:
        structure: after the change.
        candidates: in the order in which their edits were joined.
        change: what became of the parameters.
    """
    parameters = structure.tensors
    totals = {edit.width: edit for edit in change.edits if isinstance(edit, Widen)}
    pieces = {
        (width, name): (piece, piece.index) for width in totals for name, piece in _incoming(structure[width]).items()
    }
    copies_before = dict.fromkeys(totals, 0)
    new_before = dict.fromkeys(totals, 0)
    for candidate in candidates:
        edit = candidate.edit
        if not isinstance(edit, Widen):
            continue
        total = totals[edit.width]
        old_size = structure[edit.width].size - len(total.copies) - total.new
        first_copy = old_size + copies_before[edit.width]
        first_new = old_size + len(total.copies) + new_before[edit.width]
        copies_before[edit.width] += len(edit.copies)
        new_before[edit.width] += edit.new
        copies = range(first_copy, first_copy + len(edit.copies))
        units = torch.tensor([*edit.copies, *copies, *range(first_new, first_new + edit.new)])
        for name, offset in candidate.offsets.items():
            piece, index = pieces[edit.width, name]
            target = parameters[name]
            places = index[units].flatten().to(target.device)
            carried = _carry(offset.to(target), change, piece)
            target.data.index_add_(piece.axis, places, carried)


def _incoming(width: Width) -> dict[str, Slice]:
    """Return the incoming slices of a width by parameter, the first one of a parameter that has several."""
    return {piece.parameter: piece for piece in reversed(width.incoming)}


def _carry(offset: Tensor, change: Change, piece: Slice) -> Tensor:
    """Bring the other axes of an offset along, where other widths changed in the same event."""
    for axis, mapped in enumerate(change[piece.parameter].maps):
        if axis == piece.axis:
            if len([symbol for symbol in leaves(piece._axis.expr) if not symbol.extent]) > 1:
                raise SurgeryError(
                    f"offsets cannot be added to {piece.parameter!r}",
                    seen=f"axis {axis} runs over several widths",
                    expected="an axis that runs over the widened units alone",
                    advice="propose the edit without offsets",
                )
        elif mapped is not None:
            offset = mapped.apply(offset, axis, "weight")
    return offset
