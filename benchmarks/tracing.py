"""What a trace costs against Torch-Pruning and a training step, in memory, and what an edit costs against bare copies.

    python benchmarks/tracing.py                             prints the tables
    python benchmarks/tracing.py docs/benchmarks-tracing.md  writes them

On a machine that others use, too, `OMP_NUM_THREADS=1 python benchmarks/tracing.py --processor-time` measures what does
not depend on them.

Needs `pip install torch-pruning==1.6.*`. What is compared runs alternately in one process, memory in processes of
their own. Medians over the repetitions, with the range in brackets; a ratio is that of two neighbours in time.
"""

from __future__ import annotations

import copy
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import models
import torch
import torch_pruning
from torch import Tensor, nn

import growkit

# Models, each with how many images of which side it runs on; first what Torch-Pruning's own guide takes.
CASES = [(name, images) for images in ((1, 224), (2, 64)) for name in ("ResNet50", "ResNet152")]
CASES.append(("Transformer", (2, 64)))
MEASURES = ("model", "forward", "trace")
MEBIBYTE = 2**20
PROCESSOR_TIME = "--processor-time" in sys.argv
CLOCK = time.process_time if PROCESSOR_TIME else time.perf_counter


def make(name: str, images: Sequence[int] = (2, 64)) -> tuple[nn.Module, tuple[Tensor]]:
    """Return a model by its name, and an example: so many images of a side, or two sequences of 64 tokens."""
    torch.manual_seed(0)
    model = getattr(models, name)().eval()
    return model, models.example(model, images)


def described(name: str, images: Sequence[int]) -> str:
    """Return the name of a model, with what it runs on."""
    number, side = images
    return f"{name}, {number} x {side} tokens" if name == "Transformer" else f"{name}, {number} x 3 x {side} x {side}"


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = CLOCK()
    function()
    return CLOCK() - start


def alternately(functions: Sequence[Callable[[], object]], repetitions: int) -> list[list[float]]:
    """Return how long each function takes, each time; they take turns, forwards and backwards."""
    for function in functions:
        function()
    found: list[list[float]] = [[] for _ in functions]
    for repetition in range(repetitions):
        order = range(len(functions))
        for index in order if repetition % 2 else reversed(order):
            found[index].append(seconds(functions[index]))
    return found


def ranged(values: Sequence[float], digits: str = ".2f") -> str:
    """Return "median (min to max)"."""
    return f"{median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratio of each pair."""
    return [one / other for one, other in zip(ones, others, strict=True)]


# ------------------------------------------------------------------ the time of a trace


def pruning_groups(model: nn.Module, inputs: tuple[Tensor]) -> None:
    """Find all groups of Torch-Pruning."""
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=inputs[0], verbose=False)
    list(graph.get_all_groups())


def training_step(model: nn.Module, inputs: tuple[Tensor], batch: int) -> Callable[[], None]:
    """Return a training step on a copy of the model: forward, backward and Adam, on random inputs."""
    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(trained.parameters())
    shape = (batch, *inputs[0].shape[1:])
    given = torch.randn(shape) if inputs[0].is_floating_point() else torch.randint(1000, shape)

    def step() -> None:
        logits = trained(given).flatten(0, -2)
        nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def traces(repetitions: int = 9) -> list[str]:
    """Compare a trace with Torch-Pruning, and with a plain forward pass."""
    rows = [
        "| model and example | trace, ms | Torch-Pruning, ms | trace / Torch-Pruning | trace / forward |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, images in CASES:
        model, inputs = make(name, images)
        functions = [
            lambda model=model, inputs=inputs: growkit.trace(model, *inputs),
            lambda model=model, inputs=inputs: pruning_groups(model, inputs),
            torch.no_grad()(lambda model=model, inputs=inputs: model(*inputs)),
        ]
        traced, pruned, forward = alternately(functions, repetitions)
        cells = [ranged([1e3 * s for s in values], ".0f") for values in (traced, pruned)]
        cells += [ranged(ratios(traced, other)) for other in (pruned, forward)]
        rows.append(f"| {described(name, images)} | " + " | ".join(cells) + " |")
    return rows


def steps(repetitions: int = 3) -> list[str]:
    """Compare a trace with a training step on 32 samples of the same size."""
    rows = ["| model and example | trace, ms | step of 32, ms | trace / step |", "| --- | --- | --- | --- |"]
    for name, images in CASES:
        model, inputs = make(name, images)
        functions = [lambda model=model, inputs=inputs: growkit.trace(model, *inputs), training_step(model, inputs, 32)]
        traced, step = alternately(functions, repetitions)
        cells = [ranged([1e3 * s for s in values], ".0f") for values in (traced, step)]
        rows.append(
            f"| {described(name, images)} | " + " | ".join([*cells, ranged(ratios(traced, step), ".4f")]) + " |"
        )
    return rows


# ------------------------------------------------------------------ the memory of a trace


def peak_of(name: str, images: Sequence[int], measure: str) -> int:
    """Return the peak of resident bytes of a process that makes a model and, perhaps, runs or traces it."""
    command = [sys.executable, __file__, "--peak", name, *map(str, images), measure]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(name: str, number: str, side: str, measure: str) -> None:
    """Do what is to be measured, and print the peak of this process; a warm-up of a tiny model loads all code."""
    tiny = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).eval()
    growkit.trace(tiny, torch.randn(2, 3, 8, 8))
    model, inputs = make(name, (int(number), int(side)))
    if measure == "forward":
        with torch.no_grad():
            model(*inputs)
    elif measure == "trace":
        growkit.trace(model, *inputs)
    # Not `ru_maxrss`, which a process takes over from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(1024 * int(status.partition("VmHWM:")[2].split()[0]))


def memory(repetitions: int = 5) -> list[str]:
    """Compare the peaks of processes that make, run and trace a model."""
    rows = [
        "| model and example | parameters, MiB | forward, beyond the model, MiB | trace, beyond the model, MiB "
        "| model and trace / model | trace beyond model and forward / model |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, images in CASES:
        model, _ = make(name)
        size = sum(p.nbytes for p in model.parameters())
        peaks = {measure: [peak_of(name, images, measure) for _ in range(repetitions)] for measure in MEASURES}
        base = median(peaks["model"])
        forward, traced = ([peak - base for peak in peaks[measure]] for measure in MEASURES[1:])
        cells = [f"{size / MEBIBYTE:.0f}"]
        cells += [ranged([value / MEBIBYTE for value in values], ".0f") for values in (forward, traced)]
        cells += [ranged([1 + value / size for value in traced])]
        cells += [ranged([(value - median(forward)) / size for value in traced])]
        rows.append(f"| {described(name, images)} | " + " | ".join(cells) + " |")
    return rows


# ------------------------------------------------------------------ the time of an edit


def trained(model: nn.Module) -> tuple[nn.Module, torch.optim.Adam]:
    """Return a copy of a model with an Adam that has taken a step."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def bare_copies(changed: Sequence[tuple[Sequence[Tensor], Sequence[Tensor | None]]]) -> Callable[[], list[Tensor]]:
    """Return a function that selects, for each changed parameter and its moments, the entries of the new shape."""

    def copies() -> list[Tensor]:
        made = []
        for tensors, indices in changed:
            for tensor in tensors:
                for axis, index in enumerate(indices):
                    tensor = tensor if index is None else tensor.index_select(axis, index)
                made.append(tensor)
        return made

    return copies


def new_places(change: growkit.Change) -> dict[str, list[Tensor | None]]:
    """Return, for each changed parameter and each of its axes, old entries for the new length; None where it stays."""
    return {
        name: [
            torch.arange(new) % old if new != old else None
            for old, new in zip(parameter.old.shape, parameter.new.shape, strict=True)
        ]
        for name, parameter in change.parameters.items()
    }


def edits(repetitions: int = 8, tokens: int = 64) -> list[str]:
    """Compare an edit that widens every width that can grow by a quarter with the copies that it needs."""
    model, (example,) = make("FreeHeadsTransformer")
    inputs = (example[:, :tokens],)
    widths = [w for w in growkit.trace(model, *inputs).growable if w.size >= 4 and not w.uniform]
    wider = [growkit.Widen(width.name, copies=range(width.size // 4)) for width in widths]
    places = new_places(growkit.apply(trained(model)[0], wider, example=inputs))
    measured: list[list[float]] = [[], [], [], []]
    for repetition in range(repetitions):
        grown, optimizer = trained(model)
        named = dict(grown.named_parameters())
        state = optimizer.state
        changed = [
            ((named[name].detach(), state[named[name]]["exp_avg"], state[named[name]]["exp_avg_sq"]), indices)
            for name, indices in places.items()
        ]
        functions = [
            lambda grown=grown, o=optimizer: growkit.apply(grown, wider, example=inputs, optimizers=[o]),
            bare_copies(changed),
            lambda: growkit.trace(model, *inputs),
            torch.no_grad()(lambda: [model(*inputs) for _ in range(2)]),
        ]
        # Whoever comes second finds the memory that the first has freed: they take turns.
        for index in (0, 1, 2, 3) if repetition % 2 else (3, 2, 1, 0):
            measured[index].append(seconds(functions[index]))
    cells = [ranged([1e3 * s for s in values], ".0f") for values in measured]
    what = f"{len(wider)} widths, sizes {sorted({width.size for width in widths})}; 2 x {tokens} tokens"
    return [f"| {what} | " + " | ".join([*cells, ranged(ratios(measured[0], measured[1]))]) + " |"]


def main() -> None:
    """Measure, and print or write the tables."""
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--peak"]:
        return measure_peak(*sys.argv[2:6])
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    head = ["| edit | apply, ms | bare copies, ms | trace alone, ms | two forward passes alone, ms | apply / copies |"]
    head.append("| --- | --- | --- | --- | --- | --- |")
    sections = [
        "# Benchmarks of tracing",
        "Made by `python benchmarks/tracing.py docs/benchmarks-tracing.md`. Medians, with minimum and maximum in "
        "brackets; a ratio is that of two neighbours in time.",
        f"Machine: {machine}; Torch-Pruning {torch_pruning.__version__}. Times are "
        + ("processor times." if PROCESSOR_TIME else "wall times."),
        "## The time of a trace",
        "Torch-Pruning builds its dependency graph and lists all groups, from the same example. The first rows have "
        "the example of its own guide. Small images show what remains: its forward pass is short then, and shared by "
        "all threads; ours is Python.",
        "\n".join(traces()),
        "A training step is forward, backward and Adam on 32 samples of the same size.",
        "\n".join(steps()),
        "## The memory of a trace",
        "Peaks of resident memory of processes of their own, beyond that of one that only makes the model.",
        "\n".join(memory()),
        "## The time of an edit",
        "The transformer of 12 layers with free heads and Adam state. Its 36 widths that can grow, the heads, the head "
        "size and the hidden units of each layer, grow by a quarter at once; the width of the stream is normalised and "
        "cannot. Apply includes its own trace and two probes, which depend on the example: the more tokens, the more "
        "they cost. Bare copies: one `index_select` for each axis that changes, of each changed parameter and of its "
        "two moments.",
        "\n".join([*head, *edits(tokens=2), *edits(tokens=8), *edits()]),
    ]
    text = "\n\n".join(sections) + "\n"
    paths = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    if paths:
        Path(paths[0]).write_text(text, encoding="utf-8")
    print(text)
    return None


if __name__ == "__main__":
    main()
