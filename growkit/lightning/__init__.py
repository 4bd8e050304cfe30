"""The only floor that knows PyTorch Lightning: the callback, checkpoints, and the data it hands to growth."""

from growkit.lightning.callback import Growth
from growkit.lightning.checkpoint import load

__all__ = ["Growth", "load"]
