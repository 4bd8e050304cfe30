"""A growth event that runs out of memory is one that failed, not the end of the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from growkit.errors import SurgeryError

__all__ = ["within_memory"]


@contextmanager
def within_memory() -> Iterator[None]:
    """Turn a lack of memory, on any device, into an error of growkit.

    Raises:
        SurgeryError: there was not enough.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_lack(error):
            raise
        seen = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    else:
        return
    # The failed attempt is let go of by now, with what its frames held.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    raise SurgeryError(
        "a growth event was called off: out of memory",
        seen=seen,
        expected="room for the old and the new parameters and their optimizer state at once, and a copy of the model",
        advice="set a budget, grow by less at a time, or use a smaller batch for statistics",
    )


def _is_lack(error: Exception) -> bool:
    # On CPUs torch raises a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
