"""Random-number state: capture it, restore it, and keep side errands from disturbing it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["capture", "isolated", "restore"]


def capture() -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's global generators as plain data.

    Returns:
        A dict of tensors, numbers and lists only, so that a checkpoint that holds it loads with
        `weights_only=True`. About 10 kB.
    """
    version, words, gauss = random.getstate()
    algorithm, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [
            str(algorithm),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def restore(state: dict[str, Any]) -> None:
    """Set the global generators to what `capture` returned.

    Args:
        state: from `capture`. CUDA states are restored as far as devices are there.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    algorithm, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state.cpu(), device)


@contextmanager
def isolated(seed: int | None = None) -> Iterator[None]:
    """Put every global generator back on leaving; inside, start from `seed` if one is given."""
    state = capture()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
        yield
    finally:
        restore(state)
