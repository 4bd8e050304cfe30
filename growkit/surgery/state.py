"""What optimizers keep for a parameter, and how it goes through a change.

State shaped like its parameter is carried through the axis maps of the parameter, as what it behaves like: a gradient,
the square of one, its magnitude, a step along it, the weight, or none of them (a step size is copied). Adafactor's
factored second moments are carried so that their product is. Scalars stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from growkit.errors import SurgeryError
from growkit.surgery.carry import Like, ParamChange, apply_maps

__all__ = ["carried", "like_of", "refusal"]

# How state behaves by its name, in torch.optim and in the optimizers that wrap another; anything else is copied.
_LIKE: dict[str, Like] = {
    "momentum_buffer": "gradient",
    "exp_avg": "gradient",
    "exp_inf": "magnitude",
    "grad_avg": "gradient",
    "prev": "gradient",
    "exp_avg_sq": "square",
    "max_exp_avg_sq": "square",
    "square_avg": "square",
    "sum": "square",
    "variance": "square",
    "ax": "weight",
    "slow_param": "weight",
    "slow_buffer": "weight",
    "lookahead_slow_buff": "weight",
    "old_p": "weight",
    "z": "weight",
}
# What these are before the first step, by the option of the group that says it.
_START = {"sum": "initial_accumulator_value", "step_size": "lr"}


def like_of(key: str, state: Mapping[str, Any]) -> Like:
    """Say how an entry of the state of a parameter behaves."""
    # RMSprop keeps a momentum of normalised steps, not of gradients.
    steps = key == "momentum_buffer" and "square_avg" in state
    return "step" if steps else _LIKE.get(key, "copy")


def carried(optimizer: Optimizer, change: ParamChange, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a changed parameter.

    Args:
        optimizer: whose state it is.
        change: of the parameter, as state goes through it.
        state: as it was; not modified.

    Raises:
        SurgeryError: some of it is neither a scalar nor of a shape that is known here.

    Cost: one copy of the state an axis that changed.
    """
    group = next(g for g in optimizer.param_groups if any(p is change.old for p in g["params"]))
    factors = _factors(change, state)
    result: dict[str, Any] = {}
    for key, value in state.items():
        if key in factors:
            result[key] = factors[key]
        elif isinstance(value, Tensor) and value.shape == change.old.shape:
            result[key] = _carried(change, value, like_of(key, state), group.get(_START.get(key, "")))
        elif value is None or isinstance(value, (bool, int, float)) or (isinstance(value, Tensor) and value.dim() == 0):
            result[key] = value
        else:
            kind = f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise refusal(optimizer, change, f"{key!r} is a {kind}")
    return result


def _carried(change: ParamChange, value: Tensor, like: Like, start: float | Tensor | None) -> Tensor:
    if not start:
        return change.carry(value, like=like)
    start = torch.as_tensor(start, dtype=value.dtype, device=value.device)
    return change.carry(value - start, like=like) + start


def refusal(optimizer: Optimizer, change: ParamChange, seen: str) -> SurgeryError:
    """Return the error for state that nobody carries."""
    return SurgeryError(
        f"{type(optimizer).__name__} keeps state for {change.name!r} that growkit cannot carry",
        seen=seen,
        expected=f"scalars and tensors of the parameter's shape {tuple(change.old.shape)}",
        advice="answer the hook growkit_carry_optimizer_state in a plugin, or use another optimizer",
    )


def _factors(change: ParamChange, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Carry the factors of a second moment: `row_var`, its mean over the last axis, and `col_var`, over the one before.

    The moment is taken for `row_var @ col_var / mean`, as Adafactor does, with the mean over both axes. Where that is
    exact, so are the carried factors: each is a mean over the other axis, and follows what becomes of that.
    """
    rows, columns, shape = state.get("row_var"), state.get("col_var"), change.old.shape
    if rows is None or columns is None:
        return {}
    if rows.shape != (*shape[:-1], 1) or columns.shape != (*shape[:-2], 1, shape[-1]):
        return {}
    *batch, row, column = change.maps
    unchanged = (None,) * len(batch)
    rows, columns = (apply_maps(factor, [*batch, None, None], "square") for factor in (rows, columns))
    new_rows = apply_maps(rows, [*unchanged, row, None], "square")
    new_columns = apply_maps(columns, [*unchanged, None, column], "square")
    return {
        "row_var": new_rows * _growth(columns, new_columns, -1),
        "col_var": new_columns * _growth(rows, new_rows, -2),
    }


def _growth(old: Tensor, new: Tensor, dim: int) -> Tensor:
    """Return the new mean over the old one, 1 where both are nothing."""
    before, after = old.mean(dim, keepdim=True), new.mean(dim, keepdim=True)
    return torch.where(before > 0, after / before, torch.ones_like(before))
