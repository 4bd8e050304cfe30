"""What the data modules and tasks of recipes share: files of public data sets, whole batches, one way to train."""

from __future__ import annotations

from .batches import TensorBatches, batches_of
from .sources import Remote, Source, optional
from .task import Task

__all__ = ["Remote", "Source", "Task", "TensorBatches", "batches_of", "optional"]
