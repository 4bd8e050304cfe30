"""Checkpoints: what growth adds to them, and how the structure is there before the weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import nn

from growkit.errors import CheckpointError
from growkit.structure.trace import Example
from growkit.surgery import Journal

__all__ = ["STATE_KEY", "load", "pack", "replay_before_load", "unpack"]

STATE_KEY = "growkit.Growth"
_FORMAT = 1

Module = TypeVar("Module", bound=nn.Module)


def pack(
    *,
    journal: Journal,
    example: Example | None,
    random_state: dict[str, Any],
    schedule: dict[str, Any],
    plugins: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return the state of growth as plain data and tensors, so that it loads with `weights_only=True`."""
    return {
        "format": _FORMAT,
        "journal": journal.to_json(),
        "example": example if example is None or isinstance(example, tuple) else dict(example),  # type: ignore[arg-type]
        "random_state": random_state,
        "schedule": schedule,
        "plugins": plugins,
    }


def unpack(state: dict[str, Any]) -> dict[str, Any]:
    """Check what `pack` made, and return it with the journal read.

    Raises:
        CheckpointError: another format, or parts are missing.
    """
    version = state.get("format") if isinstance(state, dict) else None
    missing = {"journal", "example", "random_state", "schedule", "plugins"} - set(state)
    if version != _FORMAT or missing:
        raise CheckpointError(
            "the checkpoint holds a state of growth that this growkit cannot read",
            seen=f"format {version!r}" + (f", without {', '.join(sorted(missing))}" if missing else ""),
            expected=f"format {_FORMAT}",
            advice="use the growkit that wrote it",
        )
    return {**state, "journal": Journal.from_json(state["journal"])}


def replay_before_load(module: pl.LightningModule) -> Callable[[], None]:
    """Wrap the module's `on_load_checkpoint`, so that it grows to the structure of a checkpoint before weights load.

    Lightning restores weights before the state of callbacks, and this hook is the last thing that runs before.

    Returns:
        A function that takes the wrapper off again.
    """
    original = module.on_load_checkpoint

    def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
        original(checkpoint)
        state = checkpoint.get("callbacks", {}).get(STATE_KEY)
        if state is not None:
            _replay(unpack(state), module)

    module.on_load_checkpoint = on_load_checkpoint  # type: ignore[method-assign]
    return lambda: module.__dict__.pop("on_load_checkpoint", None)


def _replay(state: dict[str, Any], module: nn.Module) -> None:
    journal: Journal = state["journal"]
    if not len(journal):
        return
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    journal.replay(
        module,
        example=torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.to(device), state["example"]),
    )


def load(checkpoint_path: str | Path, module: Module) -> Module:
    """Load a checkpoint of a grown model into a freshly built module, for inference without a trainer.

    Args:
        checkpoint_path: a checkpoint that Lightning saved while `growkit.Growth` was among the callbacks.
        module: built like the trained one, before any growth. Its weights and structure are changed in place.

    Returns:
        The module.

    Raises:
        CheckpointError: the file cannot be read, holds no state of growth, or does not fit the module.
        SurgeryError: the module does not have the structure on which the first edit was made.
    """
    path = Path(checkpoint_path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise CheckpointError(
            f"cannot read the checkpoint {str(path)!r}",
            seen=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="a checkpoint that Lightning saved",
            advice="check the path; a file that was cut short must be saved again",
        ) from error
    state = checkpoint.get("callbacks", {}).get(STATE_KEY) if isinstance(checkpoint, dict) else None
    if state is None or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"the checkpoint {str(path)!r} was not saved by a run with growkit.Growth",
            seen=f"callbacks {sorted(checkpoint.get('callbacks', {}))}" if isinstance(checkpoint, dict) else "no dict",
            expected=f"a state under {STATE_KEY!r}",
            advice="load checkpoints of other runs with Lightning's load_from_checkpoint",
        )
    _replay(unpack(state), module)
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(
            f"the checkpoint {str(path)!r} does not fit {type(module).__name__}",
            seen=str(error).replace("\n", " "),
            expected="the module that was trained, built with the same arguments",
            advice="build it as the run did; its recipe is in the folder of the run",
        ) from error
    return module
