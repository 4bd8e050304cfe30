"""Where the files of Fashion-MNIST are found, and how they are fetched."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType

from growkit import RecipeError

__all__ = ["fashion_mnist_files", "optional"]

_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
_SUBFOLDER = Path("FashionMNIST", "raw")
_BY_HAND = (
    "download the four files from https://github.com/zalandoresearch/fashion-mnist, or install the Debian "
    "package dataset-fashion-mnist, which puts them in /usr/share/datasets/fashion-mnist; then name their "
    "folder with --data.root FOLDER or the environment variable GROWKIT_DATA"
)


def fashion_mnist_files(root: str | None = None) -> dict[str, Path]:
    """Find the four files of Fashion-MNIST, and download them where nobody named a folder.

    The first one given counts: `root`, the environment variable GROWKIT_DATA, the user's cache folder.
    A folder holds the files directly or in its subfolder FashionMNIST/raw, plain or with the ending `.gz`.

    Args:
        root: the folder, or None.

    Returns:
        Official name without `.gz` -> path, for the images and labels of both parts.

    Raises:
        RecipeError: the named folder lacks files, or the download failed; files that arrived whole are kept.
    """
    named = root or os.environ.get("GROWKIT_DATA")
    if not named:
        return _cached()
    folder = Path(named).expanduser()
    files = _present(folder)
    if missing := _missing(files):
        raise RecipeError(
            f"Fashion-MNIST was not found in the folder that {'root' if root else 'GROWKIT_DATA'} names",
            seen=f"{folder} lacks {', '.join(missing)}" if folder.is_dir() else f"{folder} is no folder",
            expected=f"{', '.join(_MD5)}, each plain or .gz, in {folder} or in {folder / _SUBFOLDER}",
            advice=_BY_HAND,
        )
    return files


def optional(module: str) -> ModuleType:
    """Import a module that only `growkit[data]` requires.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"the data set needs the module {module}",
            seen=str(error),
            expected="the optional dependencies of growkit for data",
            advice="pip install 'growkit[data]'",
        ) from error


def _present(folder: Path) -> dict[str, Path]:
    found = {}
    for name in _MD5:
        candidates = (base / f"{name}{end}" for base in (folder, folder / _SUBFOLDER) for end in ("", ".gz"))
        if path := next((path for path in candidates if path.is_file()), None):
            found[name] = path
    return found


def _missing(files: dict[str, Path]) -> list[str]:
    return [name for name in _MD5 if name not in files]


def _cached() -> dict[str, Path]:
    pooch = optional("pooch")
    folder = Path(pooch.os_cache("growkit"))
    files = _present(folder)
    try:
        for name in _missing(files):
            # pooch moves a file to its place only when it is whole and its checksum is right.
            fetched = pooch.retrieve(
                f"{_URL}{name}.gz", f"md5:{_MD5[name]}", fname=f"{name}.gz", path=folder / _SUBFOLDER
            )
            files[name] = Path(fetched)
    except (OSError, ValueError) as error:
        raise RecipeError(
            "Fashion-MNIST could not be downloaded",
            seen=str(error),
            expected=f"the four files of {_URL}, to be kept in {folder / _SUBFOLDER}",
            advice=_BY_HAND,
        ) from error
    return files
