"""Where the files of public data sets are found, and how they are fetched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType

from growkit import RecipeError

__all__ = ["Remote", "Source", "optional"]


@dataclass(frozen=True)
class Remote:
    """A file to download.

    Attributes:
        url: where it is.
        checksum: "md5:" or "sha256:" and the digits.
        path: where to keep it, relative to the user's cache; an archive is unpacked beside itself.
    """

    url: str
    checksum: str
    path: str


@dataclass(frozen=True)
class Source:
    """The files of a public data set.

    Attributes:
        title: name of the data set.
        remotes: official name of each file -> what to download for it; an archive holds several.
        folders: where the files may lie, relative to the folder that the user names.
        endings: what may be appended to the official names.
        by_hand: how the user can come by the files.
    """

    title: str
    remotes: Mapping[str, Remote]
    folders: tuple[str, ...]
    endings: tuple[str, ...]
    by_hand: str

    def find(self, root: str | None = None) -> dict[str, Path]:
        """Find the files, and download them where nobody named a folder.

        The first one given counts: `root`, the environment variable GROWKIT_DATA, the user's cache folder.

        Args:
            root: the folder, or None.

        Returns:
            Official name -> path, for every file.

        Raises:
            RecipeError: the named folder lacks files, or the download failed; files that arrived whole are kept.
        """
        named = root or os.environ.get("GROWKIT_DATA")
        if not named:
            return self._cached()
        folder = Path(named).expanduser()
        files = self._present(folder)
        if missing := self._missing(files):
            raise RecipeError(
                f"{self.title} was not found in the folder that {'root' if root else 'GROWKIT_DATA'} names",
                seen=f"{folder} lacks {', '.join(missing)}" if folder.is_dir() else f"{folder} is no folder",
                expected=self._layout(folder),
                advice=self._advice(),
            )
        return files

    def _present(self, folder: Path) -> dict[str, Path]:
        found = {}
        for name in self.remotes:
            places = (folder / inner / f"{name}{end}" for inner, end in product(self.folders, self.endings))
            if path := next((path for path in places if path.is_file()), None):
                found[name] = path
        return found

    def _missing(self, files: dict[str, Path]) -> list[str]:
        return [name for name in self.remotes if name not in files]

    def _cached(self) -> dict[str, Path]:
        pooch = optional("pooch")
        folder = Path(pooch.os_cache("growkit"))
        files = self._present(folder)
        try:
            for remote in dict.fromkeys(self.remotes[name] for name in self._missing(files)):
                path = folder / remote.path
                unpack = pooch.Untar(extract_dir=".") if path.name.endswith(".tar.gz") else None
                # pooch moves a file to its place only when it is whole and its checksum is right.
                pooch.retrieve(remote.url, remote.checksum, path.name, path.parent, processor=unpack)
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"{self.title} could not be downloaded",
                seen=str(error),
                expected=f"{', '.join(dict.fromkeys(r.url for r in self.remotes.values()))}, to be kept in {folder}",
                advice=self._advice(),
            ) from error
        return self._present(folder)

    def _layout(self, folder: Path) -> str:
        endings = " or ".join(end or "as they are" for end in self.endings)
        places = " or in ".join(str(folder / inner) for inner in self.folders)
        return f"{', '.join(self.remotes)}, {endings}, in {places}"

    def _advice(self) -> str:
        return (
            f"{self.by_hand}; then name their folder with --data.root FOLDER or the environment variable GROWKIT_DATA"
        )


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
