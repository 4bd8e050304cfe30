"""One growth event: propose, select, check, apply, carry, verify, record. It happens whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from growkit import randomness
from growkit.errors import GrowkitError, PluginError, StructureError, SurgeryError
from growkit.growth.budget import Budget
from growkit.growth.candidate import Candidate, Cost, price
from growkit.growth.context import Context
from growkit.growth.offsets import add_offsets, check_offsets
from growkit.growth.ranks import checksum
from growkit.growth.realised import LossChange
from growkit.growth.select import select
from growkit.growth.watch import Watch, refuse_stale
from growkit.plugins import Plugins, Watched
from growkit.structure import Structure, trace_example
from growkit.surgery import Change, Deepen, Edit, Operation, ParamChange, Widen
from growkit.surgery.edits import check_edits

__all__ = ["Event", "grow", "sizes"]

_log = logging.getLogger(__name__)

_CARRY = "growkit_carry_optimizer_state"


@dataclass(frozen=True, eq=False)
class Event:
    """A growth event that happened.

    Attributes:
        candidates: the chosen ones, best first.
        change: what became of each parameter.
        note: what the journal says of it: step, epoch, plugins, predicted gain, the training loss before and after
            (see `LossChange`), how far the output moved, what optimizers dropped, and the `sizes` before and after.
    """

    candidates: Sequence[Candidate]
    change: Change
    note: dict[str, Any]


def grow(
    context: Context,
    plugins: Plugins,
    budget: Budget,
    *,
    optimizers: Sequence[Optimizer] = (),
    follow: Callable[[Event], None] | None = None,
) -> Event | None:
    """Run one growth event on the live model. In a data-parallel run, all processes do so together.

    Args:
        context: of this moment; its structure and journal follow the event.
        plugins: who proposes and selects.
        budget: limits on the size of the model.
        optimizers: that hold parameters of the model.
        follow: lets something else follow the event, as its last part; if it raises, the event is undone.

    Returns:
        The event, or None if nothing was proposed or chosen.

    Raises:
        GrowkitError: a candidate cannot be applied, a plugin failed or did what it may not, or the processes disagree.
            Model, optimizers, journal and the global random state are as they were.

    Cost: that of `growkit.apply` and of the plugins; if something grows, two copies of the model, one after the other,
        and two forward passes for each batch that plugins looked at.
    """
    ranks = context.ranks
    ranks.agree("the step to grow at", (context.step, len(context.journal)))
    with ranks.together():
        chosen = ranks.first("what to grow", _choose(context, plugins, budget, optimizers))
    if not chosen:
        return None
    before = sizes(context.structure)
    with ranks.together():
        loss = LossChange(context)
    happened: list[Event] = []

    def finish(change: Change) -> None:
        add_offsets(context.structure, chosen, change)
        happened.append(Event(chosen, change, _note(context, chosen, change, before, loss.after())))
        context.journal.append(change, **happened[0].note)
        watch = Watch(context.structure.model, optimizers, values=True)
        with randomness.isolated():
            plugins.call("growkit_grown", watch=watch, event=happened[0], model=context.structure.model)
        refuse_stale(plugins, optimizers, change)
        if follow is not None:
            follow(happened[0])
        if ranks.size > 1:
            ranks.agree("the weights after growth", checksum(_trained(context.structure.model, optimizers)))

    def carry_state(optimizer: Optimizer, change: ParamChange, state: Mapping[str, Any]) -> Mapping[str, Any] | None:
        watch = Watch(context.structure.model, optimizers)
        return plugins.first(_CARRY, watch=watch, optimizer=optimizer, change=change, state=state)

    asked = carry_state if plugins.implement(_CARRY) else None
    operation = Operation(context.structure, context.example, optimizers, seed=context.seed, carry_state=asked)
    recorded = len(context.journal)
    try:
        with ranks.together():
            operation.perform([candidate.edit for candidate in chosen], then=finish)
    except BaseException as error:
        del context.journal.entries[recorded:]
        if isinstance(error, (SurgeryError, StructureError)):
            names = {candidate.plugin for candidate in chosen}
            raise _refused(" and ".join(map(plugins.describe, sorted(names))), error) from error
        raise
    return happened[0]


def _trained(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Return the parameters, and what optimizers keep for them."""
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    for name, parameter in model.named_parameters():
        for number, optimizer in enumerate(optimizers):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}: {key} of optimizer {number}"] = value
    return tensors


def _choose(context: Context, plugins: Plugins, budget: Budget, optimizers: Sequence[Optimizer]) -> list[Candidate]:
    """Ask plugins for candidates and for the choice among them."""
    watch = Watch(context.structure.model, optimizers)
    with randomness.isolated():
        candidates = propose(context, plugins, watch)
        answers = plugins.call("growkit_select", watch=watch, candidates=candidates, budget=budget, context=context)
    if answers:
        chosen = _vetted(context.structure, answers[0][1], "growkit_select", plugins.describe(answers[0][0]))
    else:
        chosen = select(candidates, context.structure, budget)
    if not chosen:
        # A run in which nothing ever grows must not look like one in which all is well.
        level = logging.WARNING if candidates and not len(context.journal) else logging.INFO
        _log.log(level, "nothing grew: of %d candidates none was chosen, within %s", len(candidates), budget)
    return chosen


def propose(context: Context, plugins: Plugins, watch: Watched = nullcontext) -> list[Candidate]:
    """Ask every plugin; check each candidate, and price it.

    Raises:
        PluginError: a plugin returned something that is no list of candidates.
        SurgeryError: a candidate cannot be applied to this model.
    """
    candidates = []
    prices: dict[Edit, Cost] = {}
    for name, proposals in plugins.call("growkit_propose", watch=watch, context=context):
        for candidate in _vetted(context.structure, proposals, "growkit_propose", plugins.describe(name)):
            kind = _alike(candidate.edit)
            if kind not in prices:
                prices[kind] = price(context.structure, candidate.edit)
            candidates.append(replace(candidate, cost=prices[kind], plugin=name))
    return candidates


def _vetted(structure: Structure, answer: Any, hook: str, plugin: str) -> list[Candidate]:
    """Return what a hook returned, if it is candidates that fit the model.

    Which edits preserve the function is seen only when those of one width are joined, so that is checked later.
    """
    if not isinstance(answer, Iterable) or not all(isinstance(candidate, Candidate) for candidate in answer):
        raise PluginError(
            f"{plugin} returned something else than candidates from {hook}",
            seen=repr(answer),
            expected="a list of growkit.Candidate",
            advice="return a list, empty if there is nothing to grow",
        )
    candidates = list(answer)
    for candidate in candidates:
        try:
            check_edits(structure, [candidate.edit], exact=False)
            check_offsets(structure, candidate)
        except GrowkitError as error:
            raise _refused(plugin, error) from error
    return candidates


def _alike(edit: Edit) -> Edit:
    """Return an edit of the same price: which units are copied, and with which shares, makes no difference."""
    return replace(edit, copies=(0,) * len(edit.copies), shares=()) if isinstance(edit, Widen) else edit


def _refused(plugin: str, error: GrowkitError) -> SurgeryError:
    return SurgeryError(
        f"a growth event was called off; {plugin} proposed what cannot be applied: {error.what}",
        seen=error.seen,
        expected=error.expected,
        advice=error.advice,
    )


def sizes(structure: Structure) -> dict[str, Any]:
    """Return how large a model is: parameters, FLOPs per sample, and the widths that can change."""
    return {
        "parameters": sum(p.numel() for p in structure.model.parameters()),
        "flops": structure.flops(),
        "widths": {width.name: width.size for width in structure.growable},
    }


def _note(
    context: Context, chosen: Sequence[Candidate], change: Change, before: dict[str, Any], loss: dict[str, Any] | None
) -> dict[str, Any]:
    structure = context.structure
    if any(isinstance(edit, Deepen) for edit in change.edits):
        structure = trace_example(structure.model, context.example, structure.plugins)
    return {
        "step": context.step,
        "epoch": context.epoch,
        "plugins": sorted({candidate.plugin for candidate in chosen}),
        "gain": sum(candidate.gain for candidate in chosen),
        "loss": loss,
        "moved": change.moved,
        "dropped": list(change.dropped),
        "before": before,
        "after": sizes(structure),
    }
