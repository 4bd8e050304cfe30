"""Apply edits: plan, commit, verify on a probe; or leave everything as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten

from growkit.errors import SurgeryError
from growkit.structure import Structure, trace_example
from growkit.structure.dimensions import Symbol, freeze
from growkit.structure.forward import Example, call, evaluation, tensors_in
from growkit.surgery.carry import Change, ParamChange, apply_maps, axis_map
from growkit.surgery.deepen import insert_block, set_children
from growkit.surgery.edits import Deepen, Edit, UnitMap, Widen, check_edits, merge
from growkit.surgery.fresh import initialise_new_units
from growkit.surgery.gains import follow_directions
from growkit.surgery.optimizer import CarryState, OptimizerPlan
from growkit.surgery.removal import check_removals
from growkit.surgery.sites import Sites, successor

__all__ = ["Operation", "apply"]

# By how much rounding alone may move the output, relative to its scale.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def apply(
    model: nn.Module,
    edit: Edit | Sequence[Edit],
    *,
    example: Example,
    optimizers: Iterable[Optimizer] = (),
    exact: bool = True,
    seed: int = 0,
    carry_state: CarryState | None = None,
) -> Change:
    """Change the structure of a model, and let its optimizers follow. Atomic.

    Parameters are replaced at every place where they stand, their optimizer state is carried, and module attributes
    that repeat sizes are set. Then the model runs on the example: if its output moves by more than rounding,
    everything is put back.

    Args:
        model: any module that `growkit.trace` can trace.
        edit: one edit, or several to make at once; those of one width are joined.
        example: a tuple of positional or a dict of keyword inputs; both the trace and the probe use it.
        optimizers: every optimizer that holds parameters of the model.
        exact: refuse edits that change the output; with False they are made, and the change is measured.
        seed: of the incoming weights of new units. The global random state is left alone.
        carry_state: for optimizers whose state is not shaped like the parameter; see
            `growkit_carry_optimizer_state`.

    Returns:
        What became of each parameter, and how far the output moved.

    Raises:
        SurgeryError: the edit cannot be made or would change the output; nothing was changed.
        StructureError: the model cannot be traced, or has no such width.

    Cost: three forward passes of the example, and one copy of every changed parameter and its optimizer state.
    """
    return Operation(trace_example(model, example), example, tuple(optimizers), exact, seed, carry_state).perform(edit)


class Operation:
    """Edits made through a structure, each `perform` whole or not at all.

    Args:
        structure: of the model; its sizes follow.
        example: inputs of the probe.
        optimizers: that hold parameters of the model.
        exact: refuse edits that change the output.
        seed: of the incoming weights of new units.
        carry_state: see `apply`.
    """

    def __init__(
        self,
        structure: Structure,
        example: Example,
        optimizers: Sequence[Optimizer] = (),
        exact: bool = True,
        seed: int = 0,
        carry_state: CarryState | None = None,
    ) -> None:
        self.structure, self.model, self.example = structure, structure.model, example
        self.optimizers, self.exact, self.seed, self.carry_state = optimizers, exact, seed, carry_state
        self._undo: list[Callable[[], Any]] = []

    def perform(self, edit: Edit | Sequence[Edit], then: Callable[[Change], None] | None = None) -> Change:
        """Make the edits, verify them, and run `then` on the change; put everything back if anything fails."""
        edits = merge(edit if isinstance(edit, Sequence) else [edit])
        check_edits(self.structure, edits, exact=self.exact)
        units = {
            self.structure[e.width].symbol: e.unit_map(self.structure[e.width])
            for e in edits
            if not isinstance(e, Deepen)
        }
        if self.exact:
            check_removals(self.structure, edits)
        before = self._probe()
        with torch.inference_mode(False), torch.no_grad():
            changes = self._plan(units)
            follow_directions(self.structure.gains, changes, self.structure.tensors)
            optimizers = {id(optimizer): optimizer for optimizer in self.optimizers}
            plans = [OptimizerPlan(optimizer, changes, self.carry_state) for optimizer in optimizers.values()]
        self._undo = []
        try:
            self._commit(changes, units, plans)
            self._deepen([e for e in edits if isinstance(e, Deepen)], plans)
            initialise_new_units(
                self.structure, {e.width: e.new for e in edits if isinstance(e, Widen) and e.new}, self.seed
            )
            moved = self._verified(edits, before)
            change = Change(tuple(edits), {c.name: c for c in changes}, moved)
            if then is not None:
                then(change)
        except BaseException:
            for undo in reversed(self._undo):
                undo()
            raise
        return change

    # ------------------------------------------------------------- planning

    def _plan(self, units: dict[Symbol, UnitMap]) -> list[ParamChange]:
        named = self.structure.tensors
        changes = []
        for name, axes in self.structure.axes.items():
            maps = tuple(axis_map(axis, units, self.structure.roles) for axis in axes)
            if all(mapped is None for mapped in maps):
                continue
            old = named[name]
            new = successor(old, apply_maps(old, maps, "weight"))
            if old.grad is not None:
                gradient = apply_maps(old.grad.to_dense() if old.grad.is_sparse else old.grad, maps, "gradient")
                new.grad = gradient.to_sparse(old.grad.sparse_dim()) if old.grad.is_sparse else gradient
            changes.append(ParamChange(name, old, new, maps))
        return changes

    # ------------------------------------------------------------- committing

    def _commit(self, changes: list[ParamChange], units: dict[Symbol, UnitMap], plans: list[OptimizerPlan]) -> None:
        sites = Sites(self.model)
        for plan in plans:
            self._undo.append(plan.roll_back)
            plan.commit()
        for change in changes:
            self._undo.append(partial(sites.exchange, change.new, change.old))
            sites.exchange(change.old, change.new)
        self._resize({symbol: len(unit_map.source) for symbol, unit_map in units.items()})

    def _resize(self, sizes: dict[Symbol, int]) -> None:
        """Set the sizes of symbols, and the attributes that repeat them."""
        for symbol, size in sizes.items():
            self._undo.append(partial(setattr, symbol, "size", symbol.size))
            symbol.size = size
        for mirror in self.structure.mirrors:
            if sizes.keys() & mirror.symbols:
                held = vars(mirror.owner)
                self._undo.append(partial(held.__setitem__, mirror.attribute, held[mirror.attribute]))
                held[mirror.attribute] = mirror.value

    def _deepen(self, edits: list[Deepen], plans: list[OptimizerPlan]) -> None:
        for edit in edits:
            parent, children, name = insert_block(self.model, edit, self.seed)
            self._undo.append(partial(set_children, parent, children))
            ordered = list(self.model.named_parameters())
            new = [index for index, (key, _) in enumerate(ordered) if key.startswith(name + ".")]
            for plan in plans:
                _enrol(plan, ordered, new)

    # ------------------------------------------------------------- verifying

    def _probe(self) -> tuple[list[Tensor], str]:
        """Return every tensor of the output, numbers included, and how the output is built of them."""
        with evaluation(self.model, self.example):
            output = call(self.model, self.example)
            tensors = [torch.view_as_real(t).clone() if t.is_complex() else t.clone() for t in tensors_in(output)]
        leaves, form = tree_flatten(output)
        numbers = [torch.tensor(x, dtype=torch.float64) for x in leaves if isinstance(x, (bool, int, float))]
        return [*tensors, *numbers], f"{form} of {', '.join(type(leaf).__name__ for leaf in leaves)}"

    def _verified(self, edits: list[Edit], before: tuple[list[Tensor], str]) -> float:
        """Verify; remember of a width that cannot be widened that it cannot."""
        try:
            return self._verify(edits, before)
        except SurgeryError as error:
            if len(edits) == 1 and isinstance(edits[0], Widen):
                freeze(self.structure[edits[0].width].symbol, f"failed its probe: {error.seen}")
            raise

    def _verify(self, edits: list[Edit], before: tuple[list[Tensor], str]) -> float:
        """Run the probe again; return how far the output moved, relative to its scale."""
        names = ", ".join(map(str, edits))
        try:
            after = self._probe()
        except Exception as error:
            raise SurgeryError(
                f"{names} leaves a model that does not run",
                seen=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                expected="a forward pass that follows the new sizes",
                advice="look for a size written as a number in `forward`; take it from a tensor's shape instead",
            ) from error
        if len(before[0]) != len(after[0]) or before[1] != after[1]:
            raise SurgeryError(
                f"{names} changes what the model computes: its output has another form",
                seen=f"{len(after[0])} tensors in {after[1]}",
                expected=f"{len(before[0])} tensors in {before[1]}",
                advice="look for a decision in `forward` that depends on a size",
            )
        distances = [_distance(old, new) for old, new in zip(before[0], after[0], strict=True)]
        for old, distance in zip(before[0], distances, strict=True):
            allowed = self._tolerance(old.dtype)
            if self.exact and not distance <= allowed:
                raise SurgeryError(
                    f"{names} changes what the model computes",
                    seen=f"the output on the example moved by {distance:.3g} of its scale",
                    expected=f"at most {allowed:.0e} ({old.dtype})",
                    advice="pass exact=False if the output may change; else look for sizes written as numbers in "
                    "`forward`, and for removed units that were still in use",
                )
        return max(distances, default=0.0)

    def _tolerance(self, dtype: torch.dtype) -> float:
        """Return how far rounding may move an output: that of the coarsest numbers that the model computes with."""
        if dtype not in _TOLERANCE:
            return 0.0
        return max(_TOLERANCE.get(seen, 0.0) for seen in (dtype, *self.structure.dtypes))


def _enrol(plan: OptimizerPlan, ordered: list[tuple[str, nn.Parameter]], new: list[int]) -> None:
    """Let new parameters join the optimizer of the nearest neighbour that has one, before them or else behind them."""
    before = next((i for i in range(new[0] - 1, -1, -1) if plan.holds(ordered[i][1])), None)
    if before is not None:
        for number, index in enumerate(new):
            neighbour = ordered[new[number - 1] if number else before][1]
            plan.insert(*ordered[index], neighbour, behind=True)
        return
    behind = next((i for i in range(new[-1] + 1, len(ordered)) if plan.holds(ordered[i][1])), None)
    if behind is not None:
        for index in new:
            plan.insert(*ordered[index], ordered[behind][1], behind=False)


def _distance(old: Tensor, new: Tensor) -> float:
    """Return the largest difference, relative to the largest entry of `old` or 1; infinite where shapes differ."""
    if old.shape != new.shape:
        return float("inf")
    if not old.numel():
        return 0.0
    old, new = old.double(), new.double()
    difference = torch.where((old == new) | (old.isnan() & new.isnan()), 0.0, (old - new).abs())
    scale = old[old.isfinite()].abs().max().item() if bool(old.isfinite().any()) else 1.0
    return float(difference.nan_to_num(nan=torch.inf).max().item()) / max(scale, 1.0)
