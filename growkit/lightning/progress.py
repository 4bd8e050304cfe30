"""The progress bar: Lightning's rich one, with the size of the model and the last growth event."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from growkit.lightning.callback import Growth

__all__ = ["GrowthProgressBar"]


class GrowthProgressBar(RichProgressBar):
    """Shows, beside the metrics, the number of parameters and when the model grew last.

    Args:
        growth: the callback to report on.
    """

    def __init__(self, growth: Growth) -> None:
        super().__init__()
        self._growth = growth

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the metrics and the state of growth."""
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        metrics["parameters"] = f"{sum(p.numel() for p in pl_module.parameters()):,}"
        if self._growth.journal.entries:
            metrics["last growth"] = f"step {self._growth.journal.entries[-1].note.get('step', '?')}"
        return metrics
