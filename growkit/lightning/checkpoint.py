"""Checkpoints: how the structure is there before the weights, and how a module is left alone if anything fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZipFile

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer

from growkit.errors import CheckpointError, GrowkitError
from growkit.lightning.batches import fitted
from growkit.lightning.override import override
from growkit.lightning.state import STATE_KEY, Layout, check_plain, pack, short, unpack
from growkit.lightning.weights import add_message, check_fit, check_gradients, copy_weights, entries, remove_message
from growkit.surgery import Journal, Narrow

__all__ = [
    "STATE_KEY",
    "check_plain",
    "follow_checkpoints",
    "forget_journal",
    "journal_of",
    "layout_of",
    "load",
    "note_journal",
    "pack",
    "read",
    "restore",
    "restore_layout",
    "unpack",
]

_JOURNAL = "_growkit_journal"
_PEAK = 64  # how many times larger a model that also shrank may have been in between

Module = TypeVar("Module", bound=nn.Module)


# ------------------------------------------------------------------ the structure goes with the module


def journal_of(module: nn.Module) -> Journal:
    """Return the journal of the edits that a module has seen, empty for a module as it was built."""
    text = vars(module).get(_JOURNAL)
    return Journal() if text is None else Journal.from_json(text)


def note_journal(module: nn.Module, journal: Journal) -> None:
    """Leave with a module what edits it has seen; copies of it remember."""
    vars(module)[_JOURNAL] = journal.to_json()


def forget_journal(module: nn.Module) -> None:
    """Take from a module what `note_journal` left."""
    vars(module).pop(_JOURNAL, None)


def follow_checkpoints(module: pl.LightningModule, state: Callable[[], dict[str, Any]]) -> Callable[[], None]:
    """Wrap the module's checkpoint hooks.

    On loading, the module grows to the structure of the checkpoint before its weights are loaded: Lightning restores
    weights before the state of callbacks, and this hook is the last thing that runs before. On saving weights alone,
    the state of growth is saved with them, which Lightning does for no callback. A module that has grown is saved with
    a message to those who load it without growkit; this hook runs after all that may rename weights.

    Args:
        module: of the user.
        state: returns the state of growth.

    Returns:
        A function that takes the wrappers off again.
    """
    load_hook, save_hook = module.on_load_checkpoint, module.on_save_checkpoint

    def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
        growth = _growth_in(checkpoint)
        if growth:
            remove_message(checkpoint)
        load_hook(checkpoint)
        if growth:
            _resume(unpack(growth[0]), module, checkpoint)

    def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:
        save_hook(checkpoint)
        if "callbacks" not in checkpoint:
            checkpoint["callbacks"] = {STATE_KEY: state()}
        if len(journal_of(module)):
            add_message(checkpoint)

    return override(module, on_load_checkpoint=on_load_checkpoint, on_save_checkpoint=on_save_checkpoint)


def _growth_in(checkpoint: dict[str, Any]) -> list[Any]:
    """Return the state of growth in a list, empty if there is none."""
    callbacks = checkpoint.get("callbacks")
    return [callbacks[STATE_KEY]] if isinstance(callbacks, dict) and STATE_KEY in callbacks else []


def _resume(state: dict[str, Any], module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Give a module its structure; refuse what Lightning could not load into it to the end."""
    weights = checkpoint.get("state_dict")

    def check() -> None:
        check_fit(weights, module, strict=module.strict_loading)
        if "current_model_state" in checkpoint:  # beside an average of the weights
            check_fit(checkpoint["current_model_state"], module)
        check_gradients(state["gradients"], module)

    _replay(state, module, weights, then=check)


def _replay(state: dict[str, Any], module: nn.Module, weights: Any, then: Callable[[], None]) -> None:
    """Make the edits of a checkpoint that a module has not seen yet, all of them or none.

    Args:
        state: of growth.
        module: fresh, or with some of the edits.
        weights: of the checkpoint, which bound how large the module may become.
        then: called with the structure there; if it raises, everything is taken back.

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
    rest = Journal(journal.entries[len(seen) :])
    try:
        rest.replay(module, example=fitted(state["example"], module), most=_most(rest, module, weights), then=then)
    except CheckpointError:
        raise
    except GrowkitError as error:
        raise CheckpointError(
            f"the checkpoint does not fit {type(module).__name__}: {short(error.what)}",
            seen=short(error.seen),
            expected="the module that was trained, built with the same arguments",
            advice="build it as the run did; its recipe is in the folder of the run",
        ) from error
    if len(rest):
        note_journal(module, journal)


def _most(journal: Journal, module: nn.Module, weights: Any) -> int:
    """Return how many parameters a module may have on the way to some weights, so that no journal fills the memory."""
    # The module counts, too: checkpoints may leave out weights that are loaded from elsewhere.
    both = entries(module.state_dict()) + entries(weights)
    return both * _PEAK if any(isinstance(edit, Narrow) for edit in journal.edits) else both


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


# ------------------------------------------------------------------ without a trainer


def load(checkpoint_path: str | Path, module: Module) -> Module:
    """Load a checkpoint of a grown model into a freshly built module, for inference without a trainer. Atomic.

    Args:
        checkpoint_path: a checkpoint that Lightning saved while `growkit.Growth` was among the callbacks. Of a
            checkpoint with averaged weights the average is taken, as Lightning does.
        module: built like the trained one, before any growth. Its weights and structure are changed in place.

    Returns:
        The module.

    Raises:
        CheckpointError: the file cannot be read, holds no state of growth, or does not fit the module, which is as it
            was.

    Cost: that of `Journal.replay`, and two copies of the weights for the time of the call.
    """
    path = Path(checkpoint_path)
    restore(read(path), module, path)
    return module


def restore(checkpoint: dict[str, Any], module: nn.Module, path: Path) -> dict[str, Any]:
    """Give a module the structure and the weights of a checkpoint, as `load` does.

    Args:
        checkpoint: as it was read.
        module: freshly built.
        path: of the file, for messages.

    Returns:
        The state of growth.

    Raises:
        CheckpointError: see `load`.
    """
    growth = _growth_in(checkpoint)
    remove_message(checkpoint)
    weights, strict = checkpoint.get("state_dict"), getattr(module, "strict_loading", True)
    if not growth or not isinstance(weights, dict):
        raise CheckpointError(
            f"the checkpoint {str(path)!r} was not saved by a run with growkit.Growth",
            seen=short(f"the keys {', '.join(map(str, checkpoint))}"),
            expected=f"weights, and a state under {STATE_KEY!r} among the callbacks",
            advice="load checkpoints of other runs with Lightning's load_from_checkpoint",
        )
    try:
        state = unpack(growth[0])
        _replay(state, module, weights, then=partial(copy_weights, weights, module, strict=strict))
    except CheckpointError as error:
        raise CheckpointError(
            f"cannot load the checkpoint {str(path)!r} into {type(module).__name__}: {error.what}",
            seen=error.seen,
            expected=error.expected,
            advice=error.advice,
        ) from error
    return state


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint file, executing nothing.

    Raises:
        CheckpointError: it cannot be read, is damaged, or is something else.

    Cost: the file is read twice, once to compare it with its checksums.
    """
    try:
        _check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in every way there is
        raise CheckpointError(
            f"cannot read the checkpoint {str(path)!r}",
            seen=short(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"),
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


def _check_archive(path: Path) -> None:
    """Refuse what torch would read all the same: records that unpack to more than the file, and damaged ones."""
    with ZipFile(path) as archive:
        records = archive.infolist()
        if (size := sum(record.file_size for record in records)) > path.stat().st_size:
            raise ValueError(f"records that unpack to {size:,} bytes")
        checked = any(record.CRC for record in records)  # torch can be told to leave checksums out
        if checked and (damaged := archive.testzip()) is not None:
            raise ValueError(f"the record {damaged!r} does not have its checksum")
