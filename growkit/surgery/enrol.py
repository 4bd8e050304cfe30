"""Wholly new parameters join the optimizers that train what stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from growkit.errors import SurgeryError
from growkit.surgery.optimizer import OptimizerPlan

__all__ = ["enrol"]


def enrol(plans: Sequence[OptimizerPlan], ordered: Sequence[tuple[str, nn.Parameter]], new: Sequence[int]) -> None:
    """Let the parameters of a new block join optimizers.

    Each joins every group that holds its nearest neighbour of its own kind (matrices and kernels are one kind, vectors
    the other) before it, else behind it; where none of its kind is held, the nearest of any kind. In the group it
    stands where it stands in the model. Where no optimizer holds parameters of the model, it joins none.

    Args:
        plans: of the optimizers.
        ordered: the names and parameters of the model, in order.
        new: which of them are new.

    Raises:
        SurgeryError: no optimizer that holds parameters of the model can train it.
    """
    for index in new:
        name, parameter = ordered[index]
        others = [p for _, p in (*ordered[:index][::-1], *ordered[index + 1 :])]
        for plan, group in _homes(plans, name, parameter, others):
            places = {id(present): place for place, present in enumerate(group["params"])}
            number, nearest = next((n, other) for n, other in enumerate(others) if id(other) in places)
            plan.insert(name, parameter, group, places[id(nearest)] + (number < index))


def _homes(
    plans: Sequence[OptimizerPlan], name: str, parameter: nn.Parameter, others: Sequence[Tensor]
) -> list[tuple[OptimizerPlan, dict[str, Any]]]:
    """Return the groups that a parameter joins; `others` are those before it, the nearest first, and those behind."""
    strict = [plan for plan in plans if not plan.takes(parameter)]
    # An optimizer inside another one often shares its lists.
    closed = {id(group["params"]) for plan in strict for group in plan.groups}
    homes = [(plan, group) for plan in plans for group in plan.groups if id(group["params"]) not in closed]
    held = {id(present) for _, group in homes for present in group["params"]}
    kin = [other for other in others if (other.dim() > 1) == (parameter.dim() > 1)]
    neighbour = next((other for other in (*kin, *others) if id(other) in held), None)
    if neighbour is None and any(plan.holds(other) for plan in strict for other in others):
        raise SurgeryError(
            f"no optimizer can train the new parameter {name!r}",
            seen=f"shape {tuple(parameter.shape)}, where {strict[0].name} holds what stands beside it",
            expected="an optimizer for it: Muon takes matrices only, and SparseAdam no dense gradients",
            advice="train other parameters of the model with an optimizer such as AdamW, and pass that one, too",
        )
    return [(plan, group) for plan, group in homes if any(present is neighbour for present in group["params"])]
