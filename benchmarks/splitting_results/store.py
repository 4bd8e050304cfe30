"""The numbers of all runs: one CSV file, a row for each phase of each run, which grows as runs finish."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks import Task

__all__ = ["Key", "Store"]

Key = tuple[str, str, str, int]  # task, what is equal, method, seed
Row = dict[str, Any]

_TEXT = {"task": str, "equal": str, "method": str, "widths": str}
_WHOLE = {"seed": int, "round": int, "steps": int, "parameters": int}
_NUMBERS = ("flops", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
_EVENT = ("event_flops", "gain", "best_gain", "grown_loss")
_TYPES = {**_TEXT, **_WHOLE, **dict.fromkeys((*_NUMBERS, *_EVENT), float)}


class Store:
    """Finished runs on disk.

    Args:
        path: of the file; what it holds is kept, but for runs that were written in part.
        tasks: whose runs count.

    Attributes:
        runs: the rows of each finished run.
    """

    def __init__(self, path: Path, tasks: Sequence[Task]) -> None:
        self._path = path
        self.runs: dict[Key, list[Row]] = {}
        rounds = {task.name: task.rounds for task in tasks}
        for row in self._read():
            self.runs.setdefault(_key(row), []).append(row)
        self.runs = {key: rows for key, rows in self.runs.items() if rows[-1]["round"] == rounds.get(key[0])}
        with self._path.open("w", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, _TYPES).writeheader()
        for rows in self.runs.values():
            self._write(rows)

    def add(self, rows: list[Row]) -> None:
        """Take note of a finished run."""
        self.runs[_key(rows[0])] = rows
        self._write(rows)

    def _write(self, rows: Iterable[Row]) -> None:
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, _TYPES).writerows(
                {name: f"{value:.8g}" if isinstance(value, float) else value for name, value in row.items()}
                for row in rows
            )

    def _read(self) -> list[Row]:
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return [
                {name: _TYPES[name](text) if text else None for name, text in row.items()}
                for row in csv.DictReader(file)
                if None not in row.values()
            ]


def _key(row: Row) -> Key:
    return row["task"], row["equal"], row["method"], row["seed"]
