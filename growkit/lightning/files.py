"""Checkpoint files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from lightning_fabric.utilities.cloud_io import _is_local_file_protocol

from growkit.errors import CheckpointError

__all__ = ["WholeFiles", "save_whole_files"]


class WholeFiles(TorchCheckpointIO):
    """Writes a local checkpoint beside its place, and moves it there once it is on the disk.

    Lightning writes it to the folder for temporary files; where that is another disk, the file is then copied, and a
    full disk or a killed process leaves half a file in place of the last checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint; the file that was there before stays whole if anything fails.

        Raises:
            CheckpointError: it cannot be written.
        """
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        content = BytesIO()
        torch.save(checkpoint, content)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError as error:
            raise CheckpointError(
                f"cannot write the checkpoint {str(target)!r}",
                seen=f"{type(error).__name__}: {error}",
                expected=f"a folder with room for {content.tell():,} bytes",
                advice="make room and resume from the last checkpoint, which is as it was",
            ) from error
        finally:
            with suppress(OSError):
                partial.unlink()


def save_whole_files(trainer: pl.Trainer) -> Callable[[], None]:
    """Let a trainer write whole files, unless it has been given a way of its own; return what undoes it."""
    strategy = trainer.strategy
    before = strategy.checkpoint_io
    if type(before) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeFiles()
    return lambda: setattr(strategy, "checkpoint_io", before)
