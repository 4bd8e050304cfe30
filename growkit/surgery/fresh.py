"""Incoming weights of new units: as their layer initialises itself."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from growkit import randomness
from growkit.structure import Structure, Width
from growkit.structure.tensors import plain_tensors

__all__ = ["initialise_new_units"]


def initialise_new_units(structure: Structure, new: Mapping[str, int], seed: int) -> None:
    """Give the last units of some widths fresh incoming weights; their outgoing weights stay zero.

    Each module that holds incoming slices is copied, asked to `reset_parameters()`, and the entries of the new
    units are taken over. What that does not set is lent by a random existing unit.

    Args:
        structure: at the new sizes.
        new: number of new units by width name.
        seed: of the draws; the global random state is left alone.
    """
    with randomness.isolated(seed), torch.inference_mode(False), torch.no_grad():
        for name, count in new.items():
            for key, module in _modules(structure, structure[name]):
                _fill(structure[name], count, key, module)


def _modules(structure: Structure, width: Width) -> Iterable[tuple[str, nn.Module]]:
    names = dict.fromkeys(piece.parameter.rpartition(".")[0] for piece in width.incoming)
    return ((name, structure.model.get_submodule(name)) for name in names)


def _fill(width: Width, count: int, prefix: str, module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    donor = copy.deepcopy(module)
    tensors = dict([*donor._parameters.items(), *donor._buffers.items(), *plain_tensors(donor).items()])
    versions = {key: tensor._version for key, tensor in tensors.items() if tensor is not None}
    if callable(reset):
        donor.reset_parameters()  # type: ignore[operator]
    lender = torch.randint(width.size - count, (count,))
    for piece in width.incoming:
        owner, _, key = piece.parameter.rpartition(".")
        if owner != prefix:
            continue
        target, index = getattr(module, key), piece.index
        places = index[-count:].flatten().to(target.device)
        # What was not reset, as masks and own gains are not, would as zeros keep the unit dead for ever.
        untouched = getattr(donor, key)._version == versions[key]
        origin = index[lender].flatten().to(target.device) if untouched else places
        values = getattr(donor, key).index_select(piece.axis, origin)
        target.data.index_copy_(piece.axis, places, values.to(target.dtype))
