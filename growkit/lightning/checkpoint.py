"""Checkpoints: what growth adds to them, and how the structure is there before the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer

from growkit.errors import CheckpointError, GrowkitError, SurgeryError
from growkit.lightning.batches import to_device
from growkit.lightning.override import override
from growkit.structure.forward import Example
from growkit.surgery import Journal

__all__ = [
    "STATE_KEY",
    "follow_checkpoints",
    "journal_of",
    "layout_of",
    "load",
    "note_journal",
    "pack",
    "read",
    "restore_layout",
    "unpack",
]

STATE_KEY = "growkit.Growth"
_JOURNAL = "_growkit_journal"
_FORMAT = 1

Layout = list[list[list[str]]]  # names, by optimizer and group
Module = TypeVar("Module", bound=nn.Module)


def pack(
    *,
    journal: Journal,
    example: Example | None,
    random_state: dict[str, Any],
    schedule: dict[str, Any],
    plugins: dict[str, dict[str, Any]],
    layout: Layout,
    grown_at: int,
    metrics: dict[str, Any],
    gradients: dict[str, Any],
    pending: dict[str, Any],
) -> dict[str, Any]:
    """Return the state of growth as plain data and tensors, so that it loads with `weights_only=True`."""
    return {
        "format": _FORMAT,
        "journal": journal.to_json(),
        "example": dict(example) if isinstance(example, Mapping) else example,
        "random_state": random_state,
        "schedule": schedule,
        "plugins": plugins,
        "layout": layout,
        "grown_at": grown_at,
        "metrics": metrics,
        "gradients": gradients,
        "pending": pending,
    }


_PARTS = {"journal", "example", "random_state", "schedule", "plugins", "layout", "grown_at"}


def unpack(state: Any) -> dict[str, Any]:
    """Check what `pack` made, and return it with the journal read.

    Raises:
        CheckpointError: another format, or parts are missing or damaged.
    """
    version = state.get("format") if isinstance(state, dict) else type(state).__name__
    missing = _PARTS - set(state) if isinstance(state, dict) else _PARTS
    if version != _FORMAT or missing:
        raise _unreadable(f"format {version!r}" + (f", without {', '.join(sorted(missing))}" if missing else ""))
    try:
        journal = Journal.from_json(state["journal"])
    except SurgeryError as error:
        raise _unreadable(error.seen) from error
    if len(journal) and not isinstance(state["example"], (tuple, list, dict)):
        raise _unreadable(f"an example of type {type(state['example']).__name__}")
    return {**state, "journal": journal}


def _unreadable(seen: str) -> CheckpointError:
    return CheckpointError(
        "the checkpoint holds a state of growth that this growkit cannot read",
        seen=seen,
        expected=f"format {_FORMAT}, whole",
        advice="use the growkit that wrote it; a damaged file must be saved again",
    )


# ------------------------------------------------------------------ the structure goes with the module


def journal_of(module: nn.Module) -> Journal:
    """Return the journal of the edits that a module has seen, empty for a module as it was built."""
    text = vars(module).get(_JOURNAL)
    return Journal() if text is None else Journal.from_json(text)


def note_journal(module: nn.Module, journal: Journal) -> None:
    """Leave with a module what edits it has seen; copies of it remember."""
    vars(module)[_JOURNAL] = journal.to_json()


def follow_checkpoints(module: pl.LightningModule, state: Callable[[], dict[str, Any]]) -> Callable[[], None]:
    """Wrap the module's checkpoint hooks.

    On loading, the module grows to the structure of the checkpoint before its weights are loaded: Lightning restores
    weights before the state of callbacks, and this hook is the last thing that runs before. On saving weights alone,
    the state of growth is saved with them, which Lightning does for no callback.

    Args:
        module: of the user.
        state: returns the state of growth.

    Returns:
        A function that takes the wrappers off again.
    """
    load_hook, save_hook = module.on_load_checkpoint, module.on_save_checkpoint

    def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
        load_hook(checkpoint)
        callbacks = checkpoint.get("callbacks", {})
        if STATE_KEY in callbacks:
            replay(unpack(callbacks[STATE_KEY]), module)

    def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:
        save_hook(checkpoint)
        if "callbacks" not in checkpoint:
            checkpoint["callbacks"] = {STATE_KEY: state()}

    return override(module, on_load_checkpoint=on_load_checkpoint, on_save_checkpoint=on_save_checkpoint)


def replay(state: dict[str, Any], module: nn.Module) -> None:
    """Make the edits of a checkpoint that a module has not seen yet.

    Raises:
        CheckpointError: the module has grown further than the checkpoint, or in another way, or does not fit.
    """
    journal, seen = state["journal"], journal_of(module)
    if journal.entries[: len(seen)] != seen.entries:
        raise CheckpointError(
            f"this {type(module).__name__} has grown in another way than the checkpoint",
            seen=f"{len(seen)} growth events in the module, {len(journal)} in the checkpoint",
            expected="a module that is fresh, or that has seen only growth events of the checkpoint",
            advice="build the module anew",
        )
    if len(journal) == len(seen):
        return
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    example = to_device(state["example"], device)
    try:
        Journal(journal.entries[len(seen) :]).replay(module, example=example)
    except GrowkitError as error:
        raise CheckpointError(
            f"the checkpoint does not fit {type(module).__name__}: {error.what}",
            seen=error.seen,
            expected="the module that was trained, built with the same arguments",
            advice="build it as the run did; its recipe is in the folder of the run",
        ) from error
    note_journal(module, journal)


# ------------------------------------------------------------------ the layout of optimizers goes by name


def layout_of(module: nn.Module, optimizers: Sequence[Optimizer]) -> Layout:
    """Return the names of the parameters in each group of each optimizer."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [[[names.get(id(p), "") for p in group["params"]] for group in o.param_groups] for o in optimizers]


def restore_layout(layout: Layout, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Give freshly built optimizers the layout of those that were saved: their state is loaded by position.

    Where the parameters are not the same ones, nothing is done, and loading the state will say so.
    """
    parameters = dict(module.named_parameters())
    for saved, optimizer in zip(layout, optimizers, strict=False):
        now = [[name for group in layout_of(module, [optimizer])[0] for name in group]]
        wanted = [name for group in saved for name in group]
        if len(saved) != len(optimizer.param_groups) or sorted(wanted) != sorted(now[0]) or "" in wanted:
            continue
        for group, names in zip(optimizer.param_groups, saved, strict=True):
            group["params"][:] = [parameters[name] for name in names]
            if "param_names" in group:
                group["param_names"][:] = names


def load(checkpoint_path: str | Path, module: Module) -> Module:
    """Load a checkpoint of a grown model into a freshly built module, for inference without a trainer.

    Args:
        checkpoint_path: a checkpoint that Lightning saved while `growkit.Growth` was among the callbacks.
        module: built like the trained one, before any growth. Its weights and structure are changed in place.

    Returns:
        The module.

    Raises:
        CheckpointError: the file cannot be read, holds no state of growth, or does not fit the module.
    """
    path = Path(checkpoint_path)
    checkpoint = read(path)
    callbacks = checkpoint.get("callbacks", {})
    if not isinstance(callbacks, dict) or STATE_KEY not in callbacks or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"the checkpoint {str(path)!r} was not saved by a run with growkit.Growth",
            seen=f"the keys {', '.join(map(str, checkpoint))}",
            expected=f"weights, and a state under {STATE_KEY!r} among the callbacks",
            advice="load checkpoints of other runs with Lightning's load_from_checkpoint",
        )
    try:
        replay(unpack(callbacks[STATE_KEY]), module)
        module.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, CheckpointError) as error:
        parts = error if isinstance(error, CheckpointError) else None
        raise CheckpointError(
            f"cannot load the checkpoint {str(path)!r} into {type(module).__name__}"
            + (f": {parts.what}" if parts else ""),
            seen=parts.seen if parts else str(error).replace("\n", " "),
            expected=parts.expected if parts else "the module that was trained, built with the same arguments",
            advice=parts.advice if parts else "build it as the run did; its recipe is in the folder of the run",
        ) from error
    return module


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint file, executing nothing.

    Raises:
        CheckpointError: it cannot be read, or is something else.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in every way there is
        raise CheckpointError(
            f"cannot read the checkpoint {str(path)!r}",
            seen=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            expected="a checkpoint that Lightning saved",
            advice="check the path; a file that was cut short must be saved again",
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"the file {str(path)!r} is no checkpoint",
            seen=f"a {type(checkpoint).__name__}",
            expected="a checkpoint that Lightning saved",
            advice="check the path",
        )
    return checkpoint
