"""Apply edits: plan, commit, verify on a probe; or leave everything as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from growkit.errors import SurgeryError
from growkit.structure import Structure, trace_example
from growkit.structure.dimensions import Symbol, freeze
from growkit.structure.forward import Example
from growkit.structure.tensors import named_tensors
from growkit.surgery.attributes import follow_sizes, resize_modules
from growkit.surgery.carry import AxisMaps, Change, ParamChange, apply_maps
from growkit.surgery.configuration import follow_configuration
from growkit.surgery.deepen import insert_block, running, set_children
from growkit.surgery.edits import Deepen, Edit, Widen, check_edits
from growkit.surgery.enrol import enrol
from growkit.surgery.fresh import initialise_new_units
from growkit.surgery.gains import follow_directions
from growkit.surgery.merge import merge
from growkit.surgery.optimizer import CarryState, OptimizerPlan, with_inner
from growkit.surgery.removal import check_removals
from growkit.surgery.sites import Sites, successor
from growkit.surgery.units import UnitMap
from growkit.surgery.verify import Output, Places, failed_run, output_of, places_of, probes_of, verify

__all__ = ["Operation", "apply"]

_log = logging.getLogger(__name__)


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
        optimizers: every optimizer that holds parameters of the model; those inside of them follow, too.
        exact: refuse edits that change the output; with False they are made, and the change is measured. What growkit
            does not understand stays frozen in any case.
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
        self._check_data()
        units = {
            self.structure[e.width].symbol: e.unit_map(self.structure[e.width])
            for e in edits
            if not isinstance(e, Deepen)
        }
        if self.exact:
            check_removals(self.structure, edits)
        on_demand = {self.structure[e.width].symbol for e in edits if isinstance(e, Widen) and e.output}
        places = places_of(self.structure.results, {symbol: units[symbol] for symbol in on_demand})
        probes = probes_of(self.model, self.example)
        with torch.inference_mode(False), torch.no_grad():
            changes = self._plan(units)
            plans = [OptimizerPlan(each, changes, self.carry_state) for each in with_inner(self.optimizers)]
        self._undo = []
        try:
            self._commit(changes, units)
            new = {e.width: e.new for e in edits if isinstance(e, Widen) and e.new}
            initialise_new_units(self.structure, new, self.seed)
            self._follow(plans)
            renamed, blocks = self._deepen([e for e in edits if isinstance(e, Deepen)], plans)
            moved = self._verified(edits, probes, places, blocks)
            dropped = tuple(loss for plan in plans for loss in plan.dropped)
            change = Change(tuple(edits), {c.name: c for c in changes}, moved, renamed, dropped)
            if then is not None:
                then(change)
        except BaseException:
            self.undo()
            raise
        for loss in dropped:
            _log.warning("%s does not fit the changed parameters and was dropped", loss)
        return change

    def undo(self) -> None:
        """Put model and optimizers back as they were before the last `perform`."""
        while self._undo:
            self._undo.pop()()

    # ------------------------------------------------------------- planning

    def _check_data(self) -> None:
        empty = next((name for name, tensor in self.structure.tensors.items() if tensor.is_meta), None)
        if empty is not None:
            raise SurgeryError(
                f"cannot edit {type(self.model).__name__}: {empty!r} has no data",
                seen="a tensor on the meta device",
                expected="parameters and buffers with values, which an edit carries over",
                advice="build or load the model on a real device first; a trace alone needs no data",
            )

    def _plan(self, units: dict[Symbol, UnitMap]) -> list[ParamChange]:
        named = self.structure.tensors
        axis_maps = AxisMaps(units, self.structure.roles)
        changes = []
        for name, axes in self.structure.axes.items():
            maps = tuple(map(axis_maps.of, axes))
            if all(mapped is None for mapped in maps):
                continue
            old, shift = named[name], self.structure.shifts.get(name, 0.0)
            new = successor(old, apply_maps(old, maps, "weight", shift))
            changes.append(ParamChange(name, old, new, maps, shift))
        follow_directions(self.structure.gains, changes, named)
        for change in changes:
            _carry_gradient(change)
        return changes

    # ------------------------------------------------------------- committing

    def _commit(self, changes: list[ParamChange], units: dict[Symbol, UnitMap]) -> None:
        sites = Sites(self.model)
        for change in changes:
            self._undo.append(partial(sites.exchange, change.new, change.old))
            sites.exchange(change.old, change.new)
        for symbol, unit_map in units.items():
            self._undo.append(partial(setattr, symbol, "size", symbol.size))
            symbol.size = len(unit_map.source)
        follow_sizes(self.structure.mirrors, units.keys(), self._undo)
        resize_modules(self.model, changes, self.structure.plugins, self._undo)
        follow_configuration(self.model, changes, self._undo)

    def _follow(self, plans: list[OptimizerPlan]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for plan in plans:
                self._undo.append(plan.roll_back)
                plan.commit()

    def _deepen(
        self, edits: list[Deepen], plans: list[OptimizerPlan]
    ) -> tuple[dict[str, str], list[tuple[str, nn.Module]]]:
        """Insert the blocks; return the new names of tensors that moved, and what each block follows."""
        renamed: dict[str, str] = {}
        blocks = []
        for edit in edits:
            model = self.model
            tied = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
            held = dict.fromkeys([*named_tensors(model), *(name for name, _ in tied)])
            insertion = insert_block(self.model, edit, self.seed)
            self._undo.append(partial(set_children, insertion.parent, insertion.children))
            blocks.append((edit.after, insertion.block))
            if insertion.renamed is not None:
                old, new = insertion.renamed
                renamed |= {name: new + name[len(old) :] for name in held if name.startswith(old)}
            ordered = list(self.model.named_parameters())
            fresh = [index for index, (key, _) in enumerate(ordered) if key.startswith(insertion.name + ".")]
            enrol(plans, ordered, fresh)
        return renamed, blocks

    # ------------------------------------------------------------- verifying

    def _verified(
        self,
        edits: list[Edit],
        probes: Sequence[tuple[Example, Output]],
        places: Places,
        blocks: Sequence[tuple[str, nn.Module]],
    ) -> float:
        """Verify; remember of a width that cannot be widened that it cannot."""
        try:
            try:
                with running(blocks):
                    outputs = [(before, output_of(self.model, example)) for example, before in probes]
            except SurgeryError:
                raise
            except Exception as error:
                raise failed_run(edits, error) from error
            names = ", ".join(map(str, edits))
            check = partial(verify, names, places=places, exact=self.exact, seen=self.structure.dtypes)
            return max(check(before, after) for before, after in outputs)
        except SurgeryError as error:
            if len(edits) == 1 and isinstance(edits[0], Widen):
                freeze(self.structure[edits[0].width].symbol, f"failed its probe: {error.seen}")
            raise


def _carry_gradient(change: ParamChange) -> None:
    gradient = change.old.grad
    if gradient is not None:
        carried = change.carry(gradient.to_dense() if gradient.is_sparse else gradient, like="gradient")
        change.new.grad = carried.to_sparse(gradient.sparse_dim()) if gradient.is_sparse else carried
