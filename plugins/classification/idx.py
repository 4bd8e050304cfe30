"""The idx file format, in which MNIST and its relatives are published."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from growkit import RecipeError

__all__ = ["read_idx"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> np.ndarray:
    """Read an idx file, compressed with gzip where its name ends in `.gz`.

    Args:
        path: the file.

    Returns:
        A writable array of the shape and type that the file states, in the byte order of this machine.

    Raises:
        RecipeError: the file cannot be read, is no idx file, or is shorter or longer than it states.
    """
    content = _content(Path(path))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise _broken(
            path,
            seen=f"the first bytes {content[:4].hex(' ') or '(none)'}",
            expected="the idx magic number: 00 00, a type (08, 09, 0b, 0c, 0d or 0e), the number of axes",
        )
    dtype, axes = np.dtype(_DTYPES[content[2]]), content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise _broken(path, seen=f"{len(content)} bytes", expected=f"a header of {start} bytes")
    shape = struct.unpack(f">{axes}I", content[4:start])
    size = start + dtype.itemsize * math.prod(shape)
    if len(content) != size:
        raise _broken(path, seen=f"{len(content)} bytes", expected=f"{size} bytes for the shape {shape}")
    # A copy, because an array over immutable bytes is read-only.
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        kind = "a readable gzip file" if path.suffix == ".gz" else "a readable file"
        raise _broken(path, seen=str(error), expected=kind) from error


def _broken(path: str | Path, *, seen: str, expected: str) -> RecipeError:
    advice = "replace the file by a complete one"
    return RecipeError(f"the idx file {path} could not be read", seen=seen, expected=expected, advice=advice)
