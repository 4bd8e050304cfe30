"""What growth costs: per step while none is due, per event, and for trace and apply alone.

    python benchmarks/overheads.py                     prints the tables
    python benchmarks/overheads.py docs/benchmarks.md  writes them
    python benchmarks/overheads.py --gpu               prints the steps while no growth is due, on a CUDA device

Everything compared is measured alternately in one process; medians over the repetitions, with the range in brackets.
"""

from __future__ import annotations

import copy
import logging
import os
import platform
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import pytorch_lightning as pl
import torch
from models import ResNet18, Transformer, example
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import growkit
from growkit_plugins.baselines import Net2Net, RandomUnits
from growkit_plugins.classification import MLP, Classifier, ConvNet
from growkit_plugins.splitting import Splitting


class StepTimer(pl.Callback):
    """Notes when each training step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    @property
    def steps(self) -> list[float]:
        """Seconds from one step's end to the next's."""
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]


class TimedGrowth(growkit.Growth):
    """Growth that notes how long each event took."""

    def __init__(self, plugins: list[growkit.Plugin], when: growkit.Schedule) -> None:
        super().__init__(plugins, when)
        self.seconds: list[float] = []

    def _grow(self, *arguments: object) -> None:
        start = time.perf_counter()
        super()._grow(*arguments)  # type: ignore[arg-type]
        self.seconds.append(time.perf_counter() - start)


class WatchedGrowth(growkit.Growth):
    """Growth that notes how long its only hook inside the training loop takes."""

    def __init__(self) -> None:
        super().__init__([Splitting()], Never())
        self.seconds: list[float] = []

    def on_train_batch_start(self, *arguments: object) -> None:
        """Measure the hook."""
        start = time.perf_counter()
        super().on_train_batch_start(*arguments)  # type: ignore[arg-type]
        self.seconds.append(time.perf_counter() - start)


class Never(growkit.Schedule):
    """No growth."""

    shared = True

    def due(self, moment: object) -> bool:
        """Say no."""
        return False


def mlp() -> tuple[nn.Module, tuple[int, ...]]:
    """Return a perceptron of MNIST's size, and the shape of an input."""
    return MLP(784, [256, 256], 10), (1, 28, 28)


def wide_mlp() -> tuple[nn.Module, tuple[int, ...]]:
    """Return a perceptron four times as wide."""
    return MLP(784, [1024, 1024], 10), (1, 28, 28)


def cnn() -> tuple[nn.Module, tuple[int, ...]]:
    """Return a small convolutional network with batch norm, and the shape of an input."""
    return ConvNet(1, [16, 16, 32], 10), (1, 28, 28)


def fit(
    make: Callable[[], tuple[nn.Module, tuple[int, ...]]], callbacks: list[pl.Callback], steps: int, **options: object
) -> None:
    """Train on random data for so many steps with a batch of 128, split among the processes."""
    torch.manual_seed(0)
    network, shape = make()
    processes = int(options.get("devices", 1))  # type: ignore[call-overload]
    images, labels = torch.randn(128 * 20, *shape), torch.randint(10, (128 * 20,))
    trainer = pl.Trainer(
        **{"accelerator": "cpu", **options},  # type: ignore[arg-type]
        max_steps=steps,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(network), DataLoader(TensorDataset(images, labels), batch_size=128 // processes))


def ranged(values: list[float], digits: str = ".3f") -> str:
    """Return "median (min to max)"."""
    return f"{median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


IDLE: dict[str, dict[str, object]] = {
    "one process": {},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "DDP, 2 processes": {"strategy": "ddp", "devices": 2},
    "DDP, 2 processes, bf16-mixed": {"strategy": "ddp", "devices": 2, "precision": "bf16-mixed"},
}
ON_GPU: dict[str, dict[str, object]] = {
    "GPU": {"accelerator": "gpu", "devices": 1},
    "GPU, 16-mixed": {"accelerator": "gpu", "devices": 1, "precision": "16-mixed"},
    "GPU, DDP with NCCL, bf16-mixed": {
        "accelerator": "gpu",
        "devices": 1,
        "strategy": "ddp",
        "precision": "bf16-mixed",
    },
}


def idle_steps(options: dict[str, object], repetitions: int = 5, steps: int = 200) -> list[str]:
    """Compare the step time with the callback and no growth due with that of plain Lightning; return cells by network.

    The share is of the hook's own time in that of a step, without what the loop spends around it.
    """
    rows = []
    for name, make in (("MLP 784-256-256-10", mlp), ("BatchNorm CNN 16-16-32", cnn)):
        plain, ratios, shares = [], [], []
        for repetition in range(repetitions):
            timers = [StepTimer(), StepTimer()]
            watched = WatchedGrowth()
            callbacks: list[list[pl.Callback]] = [[], [watched]]
            # Which of the two goes first alternates, so that a drift of the machine favours neither.
            for index in (0, 1) if repetition % 2 else (1, 0):
                fit(make, [*callbacks[index], timers[index]], steps, **options)
            plain.append(median(timers[0].steps))
            ratios.append(median(timers[1].steps) / median(timers[0].steps))
            shares.append(median(watched.seconds) / median(timers[1].steps))
        cells = ranged([1e3 * s for s in plain]), ranged(ratios), ranged(shares, ".4f")
        rows.append(f"{name} | " + " | ".join(cells))
    return rows


def idle_table(variants: dict[str, dict[str, object]]) -> str:
    """Measure each variant in processes of its own."""
    rows = [
        "| training | network, batch 128 | plain step, ms | ratio with growkit | growkit's own hook, share of a step |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, options in variants.items():
        lines = measured_apart(name, int(options.get("devices", 1)))  # type: ignore[call-overload]
        rows += [f"| {name} | {line} |" for line in lines]
    return "\n".join(rows)


def measured_apart(variant: str, processes: int) -> list[str]:
    """Return the rows of a variant, measured in processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "NODE_RANK": "0"}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--idle", variant],
            env={**os.environ, **common, "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate()[0] for process in started]
    return [line[len(_ROW) :] for line in outputs[0].splitlines() if line.startswith(_ROW)]


_ROW = "row: "


def events(repetitions: int = 3) -> list[str]:
    """Measure one growth event in training steps of the network as it is then, for each method."""
    rows = ["| network | method | event, ms | in training steps |", "| --- | --- | --- | --- |"]
    methods: dict[str, Callable[[], growkit.Plugin]] = {
        "Net2Net": Net2Net,
        "RandomUnits": RandomUnits,
    }
    for name, make in (
        ("MLP 784-256-256-10", mlp),
        ("MLP 784-1024-1024-10", wide_mlp),
        ("BatchNorm CNN 16-16-32", cnn),
    ):
        for method, plugin in methods.items():
            seconds, ratios = [], []
            for _ in range(repetitions):
                timer, growth = StepTimer(), TimedGrowth([plugin()], when=growkit.every(steps=60))
                fit(make, [growth, timer], 130)
                for index, duration in enumerate(growth.seconds):
                    step = median(timer.steps[60 * index + 5 : 60 * index + 55])
                    seconds.append(duration)
                    ratios.append(duration / step)
            rows.append(
                f"| {name} | {method} | {ranged([1e3 * s for s in seconds], '.1f')} | {ranged(ratios, '.1f')} |"
            )
    return rows


def surgery(repetitions: int = 5) -> list[str]:
    """Measure trace, and the widening of every freely growable width by a quarter with Adam state."""
    rows = ["| model | forward, ms | trace, ms | apply, ms | bare copies, ms |", "| --- | --- | --- | --- | --- |"]
    for model in (ResNet18(), Transformer()):
        inputs = example(model)
        forward, traced, applied, copied = [], [], [], []
        for _ in range(repetitions):
            grown = copy.deepcopy(model)
            optimizer = torch.optim.Adam(grown.parameters())
            for parameter in grown.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                forward.append(_seconds(partial(grown, *inputs)))
            traced.append(_seconds(partial(growkit.trace, grown, *inputs)))
            widths = [width for width in growkit.trace(grown, *inputs).growable if not width.uniform]
            edits = [growkit.Widen(width.name, copies=range(width.size // 4)) for width in widths]
            applied.append(_seconds(partial(growkit.apply, grown, edits, example=inputs, optimizers=[optimizer])))
            tensors = [p.detach() for p in grown.parameters()]
            copied.append(_seconds(lambda tensors=tensors: [t.clone() for t in tensors for _ in range(3)]))
        cells = (f"{ranged([1e3 * s for s in values], '.0f')}" for values in (forward, traced, applied, copied))
        rows.append(f"| {type(model).__name__}, {len(edits)} widths | " + " | ".join(cells) + " |")
    return rows


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print or write the tables."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    if sys.argv[1:2] == ["--idle"]:
        for row in idle_steps((IDLE | ON_GPU)[sys.argv[2]]):
            print(_ROW + row)
        return
    versions = f"torch {torch.__version__}, Lightning {pl.__version__}"
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}"
    if sys.argv[1:2] == ["--gpu"]:
        print(f"{torch.cuda.get_device_name()}, {versions}\n\n{idle_table(ON_GPU)}")
        return
    sections = [
        "# Benchmarks",
        "Made by `python benchmarks/overheads.py docs/benchmarks.md`. Medians, with minimum and maximum in brackets.",
        f"Machine: {machine}.",
        "## A step while no growth is due",
        "The ratio compares whole runs, which vary by more than the callback costs; the last column is what the hook "
        "of growkit takes.",
        idle_table(IDLE),
        "## One growth event",
        "Step: a training step (Adam, batch 128) of the same network under Lightning, just before the event. "
        "An event includes private copies, trace, selection, surgery, both probes, and the loss before and after. For "
        "splitting see [its own page](benchmarks-splitting.md).",
        "\n".join(events()),
        "## Trace and apply",
        "Apply widens by a quarter every width that can grow unevenly, with Adam state, and includes its own trace "
        "and two probes. Bare copies: cloning every grown parameter and its two moments.",
        "\n".join(surgery()),
    ]
    text = "\n\n".join(sections) + "\n"
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
