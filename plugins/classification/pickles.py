"""Read pickles of plain data and numpy arrays, and nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_pickle"]

_ARRAYS = {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": np.empty(0).__reduce__()[0]}


class _Unpickler(pickle.Unpickler):
    """A pickle may call any function by name; this one knows only those that make numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in _ARRAYS:
            return _ARRAYS[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")


def read_pickle(path: str | Path) -> Any:
    """Read a pickle of numbers, text, bytes, lists, dicts and numpy arrays, that of Python 2 among them.

    Nothing in the file is executed but numpy's own reconstruction of arrays.

    Args:
        path: the file.

    Returns:
        The content; what Python 2 called `str` is text.

    Raises:
        OSError: the file cannot be read.
        UnpicklingError: it asks for anything else.
        Exception: it is broken; pickle does not say in which way.
    """
    with Path(path).open("rb") as file:
        return _Unpickler(file, encoding="latin1").load()
