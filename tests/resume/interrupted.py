"""Whole and interrupted runs, and what they differ in."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from designs import Case
from programs import Program
from zygote import Zygote


class Runs:
    """Runs programs to the end, in one piece or in several; each whole run is made once."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self._zygote, self._folder = zygote, folder
        self._whole: dict[Program, Path] = {}

    def whole(self, program: Program) -> Path:
        """Run a program without interruption, and return the folder with its checkpoints and its outcome."""
        if program not in self._whole:
            self._whole[program] = self._folder / f"whole {len(self._whole)}"
            self._finish(program, self._whole[program], None)
        return self._whole[program]

    def kill(self, case: Case, folder: Path) -> None:
        """Run a program in a folder, and have it killed and resumed as often as the case says."""
        for moment, times in case.kills:
            ended = self._zygote.run(case.program, folder, moment, times, newest(folder))
            assert ended == -signal.SIGKILL, log(folder)

    def resume(self, program: Program, folder: Path, ckpt_path: Path | None, than: Program | None = None) -> list[str]:
        """Run a program to its end, and return the names of what is otherwise than in an uninterrupted run."""
        self._finish(program, folder, ckpt_path)
        whole, parts = outcome(self.whole(than or program)), outcome(folder)
        return sorted(name for name in whole.keys() | parts.keys() if whole.get(name) != parts.get(name))

    def differences(self, case: Case, folder: Path, last: Program | None = None) -> list[str]:
        """Return what an interrupted run comes to that the uninterrupted one does not.

        Args:
            case: what to run, and where to kill it.
            folder: for the interrupted run.
            last: what the last process runs; the program of the case if None.
        """
        self.kill(case, folder)
        return self.resume(last or case.program, folder, newest(folder), than=case.program)

    def _finish(self, program: Program, folder: Path, ckpt_path: Path | None) -> None:
        assert self._zygote.run(program, folder, ckpt_path=ckpt_path) == 0, log(folder)


def newest(folder: Path) -> Path | None:
    """Return the last checkpoint under its final name, None if there is none."""
    return max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, default=None)


def outcome(folder: Path) -> dict[str, str]:
    return json.loads((folder / "outcome.json").read_text())


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()[-3000:]
