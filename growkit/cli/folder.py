"""The folder of a run: checkpoint, journal, metrics, TensorBoard logs, recipe and picture."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from growkit.errors import RecipeError
from growkit.lightning import Growth
from growkit.lightning.progress import GrowthProgressBar

__all__ = ["JournalFile", "callbacks", "check", "loggers", "read_metrics", "untouched_until"]

_METRICS = "metrics.csv"


def check(folder: Path, resumed_from: Path | None) -> None:
    """Refuse a folder that belongs to another run.

    Raises:
        RecipeError: it holds files already, and the checkpoint to resume from is not among them.
    """
    own = resumed_from is not None and resumed_from.resolve().parent == folder.resolve()
    try:
        occupied = folder.exists() and any(folder.iterdir())
    except OSError as error:
        raise _unusable(folder, error) from error
    if occupied and not own:
        raise RecipeError(
            f"the folder {str(folder)!r} holds files already",
            seen=", ".join(sorted(path.name for path in folder.iterdir())[:5]),
            expected="a new or an empty folder, or that of the checkpoint to resume from: no run is overwritten",
            advice="choose another one with --folder",
        )


def _unusable(folder: Path, error: OSError) -> RecipeError:
    return RecipeError(
        f"cannot use {str(folder)!r} as the folder of the run",
        seen=str(error.strerror),
        expected="a folder that can be made and written",
        advice="choose another one with --folder",
    )


@contextmanager
def untouched_until(begun: Callable[[], bool], folder: Path) -> Iterator[None]:
    """Make the folder; if something is raised before the run has begun, put everything back as it was.

    Args:
        begun: says whether training has begun.
        folder: of the run.

    Raises:
        RecipeError: the folder cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    before = set(folder.rglob("*"))
    kept = {path: path.read_bytes() for path in before if path.is_file() and path.suffix != ".ckpt"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error
    if (metrics := folder / _METRICS).exists():
        # The logger starts its file anew; what it wrote before the interruption stays beside it.
        metrics.rename(folder / f"metrics-{len(list(folder.glob('metrics-*.csv')))}.csv")
    try:
        yield
    except BaseException:
        if not begun():
            for path in sorted(set(folder.rglob("*")) - before, reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            for path, content in kept.items():
                path.write_bytes(content)
            for path in made:
                path.rmdir()
        raise


def loggers(folder: Path) -> list[Logger]:
    """Return loggers that write `metrics.csv` and `tensorboard/` in the folder."""
    found: list[Logger] = [CSVLogger(str(folder), name="", version="")]
    try:
        found.append(TensorBoardLogger(str(folder), name="", version="tensorboard"))
    except ModuleNotFoundError:
        print("growkit: no TensorBoard logs; they need pip install 'growkit[report]'")
    return found


def callbacks(folder: Path, growth: Growth, *, bar: bool) -> list[Callback]:
    """Return the callbacks that keep checkpoint and journal up to date and, on a terminal, show progress."""
    keepers: list[Callback] = [
        ModelCheckpoint(dirpath=str(folder), filename="checkpoint", enable_version_counter=False),
        JournalFile(folder / "journal.json", growth),
    ]
    return [*keepers, GrowthProgressBar(growth)] if bar else keepers


class JournalFile(Callback):
    """Writes the journal after every epoch, and when training ends for whatever reason.

    Args:
        path: the file.
        growth: whose journal to write.

    Attributes:
        begun: whether a training step was made. Before that nothing is written.
    """

    def __init__(self, path: Path, growth: Growth) -> None:
        self._path, self._growth = path, growth
        self.begun = False

    def on_train_batch_end(self, *_arguments: Any, **_keywords: Any) -> None:
        """Note that training has begun."""
        self.begun = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the journal."""
        self._write()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the journal."""
        self._write()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write the journal."""
        self._write()

    def _write(self) -> None:
        if self.begun:
            partial = self._path.with_suffix(".part")
            partial.write_text(self._growth.journal.to_json(), encoding="utf-8")
            partial.replace(self._path)


def read_metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return each logged metric as (step, value) pairs, in order, from before and after any interruption."""
    series: dict[str, list[tuple[int, float]]] = {}
    for path in [*sorted(folder.glob("metrics-*.csv")), folder / _METRICS]:
        if not path.exists():
            continue
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name not in {"epoch", "step"} and value:
                        series.setdefault(name, []).append((int(row["step"]), float(value)))
    return series


def last_before(series: list[tuple[int, float]], step: int) -> float | None:
    """Return the last value logged before a step, or None."""
    earlier: list[Any] = [value for at, value in series if at < step]
    return earlier[-1] if earlier else None
