"""What a growth event did to the training loss, measured beside what plugins predicted."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from growkit.errors import GrowkitError, SurgeryError
from growkit.growth.context import Context
from growkit.growth.private import private_copy

__all__ = ["LossChange"]

_log = logging.getLogger(__name__)


class LossChange:
    """Measures the training loss before an event, as it is built, and `after` it.

    Both times a private copy of the model runs in evaluation mode on the batches that plugins looked at, one batch if
    they looked at none, with the same random numbers. The loss is averaged over batches and processes. Gradients of
    parameters are not recorded, and copies are let go of at once.

    A loss that fails before the event is no fault of the event: a warning says that nothing is measured. One that
    fails after it is, and raises.

    Args:
        context: of the event, its plugins asked.

    Cost: before and after, a copy of the model and a forward pass for each batch.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._count = context, context.looked_at or 1
        vars(context).pop("model", None)  # its memory is needed, and plugins may have changed it
        try:
            own = self._total()
        except Exception as error:  # of whatever kind the user's code raises
            seen = f"{type(error).__name__}: {error}"
            _log.warning("what this growth event does to the loss is not measured, since the loss fails: %s", seen)
            own, self._count = (0.0, 0), 0
        self._before = self._mean(own)

    def after(self) -> dict[str, Any] | None:
        """Return the loss "before" and "after": numbers, or "nan", "inf" or "-inf" as text; None without any batch.

        Raises:
            SurgeryError: the loss of the grown model fails.
        """
        try:
            own = self._total()
        except (GrowkitError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise SurgeryError(
                "the training loss of the grown model cannot be computed",
                seen=f"{type(error).__name__}: {error}",
                expected="a loss, as before the event",
                advice="look for sizes that the loss takes from elsewhere than the model",
            ) from error
        after = self._mean(own)
        if self._before is None or after is None:
            return None
        return {"before": _jsonable(self._before), "after": _jsonable(after)}

    def _total(self) -> tuple[float, int]:
        """Return the sum of the losses of batches, and how many there were."""
        if self._count == 0:
            return 0.0, 0
        # Not in `no_grad`: a loss may differentiate by its inputs.
        model = private_copy(self._context.structure.model).requires_grad_(False)
        losses = [float(self._context.loss(batch, model).detach()) for batch in self._context.batches(self._count)]
        return sum(losses), len(losses)

    def _mean(self, own: tuple[float, int]) -> float | None:
        total, count = self._context.mean(torch.tensor(own, dtype=torch.float64)).tolist()
        return total / count if count else None


def _jsonable(loss: float) -> float | str:
    return loss if math.isfinite(loss) else str(loss)
