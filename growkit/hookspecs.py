"""Every hook of growkit. A plugin implements any of them, decorated with `growkit.hookimpl`.

Hooks are called with keywords; an implementation names only the arguments it needs. `docs/hooks.md` shows where each
one fires in the training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from torch import nn
    from torch.optim import Optimizer

    from growkit.growth import Budget, Candidate, Context, Event, Rewarm
    from growkit.plugins import Plugin
    from growkit.surgery import ParamChange

__all__ = ["PROJECT", "hookimpl"]

PROJECT = "growkit"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def growkit_propose(context: Context) -> Iterable[Candidate] | None:
    """Describe edits that might help, each with its predicted gain.

    Fires when growth is due, just before a training batch. `context.model` is a private copy and may be changed at
    will; `context.structure` must not be. Returns any number of candidates; those of all plugins are put together.
    """


@hookspec(firstresult=True)
def growkit_select(candidates: Sequence[Candidate], budget: Budget, context: Context) -> Sequence[Candidate] | None:
    """Choose among the candidates, in place of the default choice by gain per cost within the budget.

    Fires after all proposals are in and priced. Returns the chosen ones, possibly none, or None to leave the choice
    to the next plugin and finally to growkit.
    """


@hookspec
def growkit_rules() -> Mapping[Any, Callable[..., None]] | None:
    """Teach growkit operations that it does not know.

    Fires when a model is traced. Returns rules by operation: an overload packet such as `torch.ops.mine.twist`, or a
    torch function as it is called from Python. A rule is called with `(tracer, operation, args, kwargs, out)` once the
    operation has run; it relates the axes of the inputs and sets those of every output, see `docs/concepts.md`.
    """


@hookspec
def growkit_resize_module(module: nn.Module, changes: Mapping[str, ParamChange]) -> None:
    """Set attributes of a module that repeat sizes and that its forward pass does not read as such.

    Fires for every module some of whose own parameters, buffers or plain tensors were replaced, while an edit is made
    and before it is verified; `changes` has them by their name within the module. Attributes may be set, tensors may
    not be touched; if the edit fails, the attributes come back.
    """


@hookspec(firstresult=True)
def growkit_carry_optimizer_state(
    optimizer: Optimizer, change: ParamChange, state: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Say what becomes of the state that an optimizer keeps for a changed parameter.

    Fires once for each changed parameter with state, while an event is planned; nothing may be modified. Returns
    the state for `change.new`, or None to have it carried as described in `growkit.surgery.optimizer`.
    """


@hookspec
def growkit_grown(event: Event, model: nn.Module) -> None:
    """Follow a change: bring averages, importances or masks along with `event.change.carry`.

    Fires after an event was applied, verified and recorded; if it raises, all of that is undone. Values of parameters
    may be changed in place; their shapes and the optimizer may not.
    """


@hookspec(firstresult=True)
def growkit_rewarm(event: Event) -> Rewarm | None:
    """Say whether learning rates shall warm up again after an event, or their schedules begin anew.

    Fires as the last hook of an event. Returns how, or None to leave it to the next plugin and finally to
    `Growth(rewarm=)`.
    """


@hookspec
def growkit_plugin_classes() -> Iterable[type[Plugin]] | None:
    """Return the plugin classes that a package offers.

    Fires when the command line starts. Recipes may then name them by their class name alone, as in
    `class_path: Splitting`.
    """


@hookspec
def growkit_recipes() -> Path | Traversable | None:
    """Return a folder with recipes (`*.yaml`).

    Fires when the command line looks for recipes: `growkit ls`, `cat`, `cp`, `validate`, `inspect` and `run`.
    """
