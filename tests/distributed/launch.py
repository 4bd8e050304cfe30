"""Run a function in several processes that train together, as Lightning's `ddp` strategy finds them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

_HERE = Path(__file__).parent
_LIMIT = 300  # seconds, against a test that hangs


class LaunchError(Exception):
    """Some process of a launch ended with an error."""


def launch(scenario: str, ranks: int, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Call `scenarios.SCENARIO(**options)` in so many processes, and return what it returned in each of them.

    Raises:
        LaunchError: a process ended with an error; with what all of them wrote.
    """
    torch.save(options, folder / "options.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(ranks),
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(_HERE / "scenarios.py"), scenario, str(ranks), str(folder)],
            env={**common, "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        texts = [process.communicate(timeout=_LIMIT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise LaunchError("\n".join(f"--- rank {rank}\n{text}" for rank, text in enumerate(texts)))
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(ranks)]
