"""A process that has imported everything and forks a child for each run: an import takes seconds, a fork none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

LIMIT = 120  # seconds, against a run that hangs


class Zygote:
    """Starts runs, each in a process of its own.

    A context manager: the processes end with it.
    """

    def __enter__(self) -> Zygote:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._process.communicate(timeout=LIMIT)

    def run(self, program: Any, folder: Path, moment: str = "", times: int = 0, ckpt_path: Path | None = None) -> int:
        """Run a program in a new process, and return how that ended: 0, or the number of a signal below 0.

        Args:
            program: a `Program`.
            folder: for its checkpoints, its log and its outcome.
            moment: at which it is killed; empty for none.
            times: how often it is reached until then.
            ckpt_path: to resume from.
        """
        folder.mkdir(exist_ok=True)
        order = {
            "program": asdict(program),
            "folder": str(folder),
            "fate": [moment, times],
            "ckpt_path": None if ckpt_path is None else str(ckpt_path),
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            live(json.loads(line))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def live(order: dict[str, Any]) -> None:
    """Be the process of one run, to its end."""
    signal.alarm(LIMIT)
    folder, fate, program = Path(order["folder"]), Fate(*order["fate"]), Program(**order["program"])
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        lie_in_wait(fate)
        if order["ckpt_path"] is not None and program.sabotage:
            SABOTAGE[program.sabotage]()
        outcome = run(program, folder, order["ckpt_path"], fate)
        (folder / "outcome.json").write_text(json.dumps(outcome))
    except BaseException:
        os.write(log, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    import torch
    from fates import Fate, lie_in_wait
    from programs import Program, run
    from sabotage import SABOTAGE

    torch.set_num_threads(1)
    serve()
