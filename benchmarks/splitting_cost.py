"""What splitting costs, and how good its fast eigenvectors are.

    python benchmarks/splitting_cost.py              prints the tables
    python benchmarks/splitting_cost.py docs         writes docs/benchmarks-splitting.md and its plot

Times are in training steps of the same network (forward, backward, SGD with momentum), measured alternately in one
process. The networks are trained on scikit-learn's digits first.
"""

from __future__ import annotations

import logging
import platform
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from overheads import StepTimer, TimedGrowth, cnn, fit, mlp
from sklearn.datasets import load_digits
from torch import Tensor, nn

import growkit
from growkit_plugins.classification import MLP, ConvNet
from growkit_plugins.splitting import Eigenpairs, Splitting, SplittingMatrices, exact_eigenpairs, fast_eigenpairs

SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
LARGEST_MATRICES = 2**30  # bytes of all matrices of a layer that the exact method is still measured with
SHARE = 0.3

Batch = tuple[Tensor, Tensor]


def digits() -> Batch:
    """Return scikit-learn's digits, images (1797, 1, 8, 8) with mean 0 and standard deviation 1, and labels."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8)
    return (images - images.mean()) / images.std(), torch.from_numpy(labels)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


class Trainee:
    """A network with its optimizer and a batch.

    Args:
        model: to train.
        steps: to train at first.
        batch: size of a batch.
    """

    def __init__(self, model: nn.Module, steps: int, batch: int = 128) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
        images, labels = digits()
        generator = torch.Generator().manual_seed(0)
        for _ in range(steps):
            drawn = torch.randint(len(images), (batch,), generator=generator)
            self.batch = images[drawn], labels[drawn]
            self.step()

    def step(self) -> None:
        """Take a training step."""
        self.model.train()
        self.optimizer.zero_grad()
        loss(self.model, self.batch).backward()
        self.optimizer.step()

    @cache  # noqa: B019 (as long as the benchmark)
    def structure(self) -> growkit.Structure:
        """Return what may grow: any method of growth pays for it, so it is not part of the comparison."""
        return growkit.trace(self.model, self.batch[0][:2])

    def matrices(self) -> SplittingMatrices:
        """Return the splitting matrices on the batch."""
        self.model.eval()
        structure = self.structure()
        return SplittingMatrices(self.model, structure, partial(loss, self.model), [self.batch])


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def fast(trainee: Trainee, **options: Any) -> list[Eigenpairs]:
    """Find the best share of the neurons by descent, as the plugin does."""
    matrices = trainee.matrices()
    wanted = max(1, round(SHARE * sum(neurons.units for neurons in matrices.neurons)))
    return fast_eigenpairs(matrices, torch.Generator().manual_seed(0), wanted=wanted, **options)


def cost(size: int, repetitions: int = 5) -> dict[str, Any]:
    """Measure both methods on a perceptron with two hidden layers of `size` neurons, batch 1,024."""
    torch.manual_seed(0)
    trainee = Trainee(MLP(64, [size, size], 10), steps=40 if size < 2048 else 6, batch=1024)
    matrix_bytes = 4 * size * (size + 1) ** 2
    products = max(pairs.products for pairs in fast(trainee))  # which also warms up
    ratios, exact_ratios = [], []
    for _ in range(repetitions):
        step = median(seconds(trainee.step) for _ in range(5 if size < 2048 else 2))
        ratios.append(seconds(partial(fast, trainee)) / step)
        if matrix_bytes <= LARGEST_MATRICES and len(exact_ratios) < (2 if size > 128 else repetitions):
            exact_ratios.append(seconds(lambda: exact_eigenpairs(trainee.matrices())) / step)
    return {"size": size, "products": products, "bytes": matrix_bytes, "fast": ratios, "exact": exact_ratios}


def agreement(name: str, model: nn.Module) -> str:
    """Compare fast eigenvectors with exact ones, on neurons with a negative index; return a row of a table."""
    trainee = Trainee(model, steps=300)
    smallest, _ = exact_eigenpairs(trainee.matrices())
    index = torch.cat([pairs.values for pairs in smallest])
    negative = index < 0
    best = [unit for unit in index.argsort()[: round(SHARE * len(index))].tolist() if index[unit] < 0]
    cells = [f"{int(negative.sum())} of {len(index)}"]
    everyone = fast_eigenpairs(trainee.matrices(), torch.Generator().manual_seed(0), products=200, tolerance=1e-4)
    for found, which in ((fast(trainee), best), (everyone, negative)):
        pairs = zip(smallest, found, strict=True)
        cosines = torch.cat([(a.vectors * b.vectors).sum(1).abs() for a, b in pairs])[which]
        kept = (torch.cat([pairs.values for pairs in found])[which].sum() / index[which].sum()).item()
        cells += [str(max(each.products for each in found)), f"{cosines.mean():.4f}", f"{cosines.min():.3f}"]
        cells += [f"{kept:.4f}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def agreement_table() -> str:
    """Return how fast eigenvectors agree with exact ones on trained networks."""
    networks: dict[str, Callable[[], nn.Module]] = {
        **{f"MLP 64-{n}-{n}-10": partial(MLP, 64, [n, n], 10) for n in (16, 64, 256, 512)},
        **{f"BatchNorm CNN {n}-{n}-{n}": partial(ConvNet, 1, [n, n, n], 10) for n in (16, 32, 64)},
        "BatchNorm CNN 16-32-512": partial(ConvNet, 1, [16, 32, 512], 10),
    }
    rows = [
        "| network | with a negative index | best 30 %: products | mean cosine | smallest | gain "
        "| all: products | mean cosine | smallest | gain |",
        "|" + " --- |" * 10,
    ]
    for name, make in networks.items():
        torch.manual_seed(0)
        rows.append(agreement(name, make()))
    return "\n".join(rows)


def cost_table(rows: list[dict[str, Any]]) -> str:
    """Return what both methods cost."""
    lines = ["| neurons a layer | products | fast, training steps | exact, training steps |", "|" + " --- |" * 4]
    for row in rows:
        exact = ranged(row["exact"]) if row["exact"] else f"not run: {row['bytes'] / 2**30:,.0f} GiB of matrices"
        lines.append(f"| {row['size']:,} | {row['products']} | {ranged(row['fast'])} | {exact} |")
    return "\n".join(lines)


def ranged(values: list[float]) -> str:
    """Return "median (min to max)"."""
    return f"{median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the costs by size."""
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for method, marker in (("fast", "o"), ("exact", "s")):
        known = [row for row in rows if row[method]]
        axes.plot([row["size"] for row in known], [median(row[method]) for row in known], marker + "-", label=method)
    axes.set(xscale="log", yscale="log", xlabel="neurons in each of two layers", ylabel="cost in training steps")
    axes.set_xticks(SIZES, [str(size) for size in SIZES], minor=False)
    axes.minorticks_off()
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def event_table() -> str:
    """Measure a whole growth event under Lightning, in training steps of the network at that time."""
    rows = ["| network, batch 128 | step, ms | event, training steps |", "|" + " --- |" * 3]
    for name, make in (("BatchNorm CNN 16-16-32, 28 x 28", cnn), ("MLP 784-256-256-10", mlp)):
        steps, ratios = [], []
        for _ in range(3):
            timer, growth = StepTimer(), TimedGrowth([Splitting()], when=growkit.every(steps=60))
            fit(make, [growth, timer], 190)
            for number, duration in enumerate(growth.seconds):
                steps.append(median(timer.steps[60 * number + 5 : 60 * number + 55]))
                ratios.append(duration / steps[-1])
        rows.append(f"| {name} | {ranged([1e3 * step for step in steps])} | {ranged(ratios)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure, and print or write the page."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    costs = [cost(size) for size in SIZES]
    sections = [
        "# What splitting costs",
        "Made by `python benchmarks/splitting_cost.py docs`. Medians, with minimum and maximum in brackets.",
        f"Machine: {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}.",
        "## By the number of neurons",
        "Perceptron 64-n-n-10, batch of 1,024: splitting matrices on one batch, and the smallest eigenpairs of all "
        "neurons of both layers, the fast method until the best 30 % have converged to 0.02. Without the trace, which "
        "every method of growth takes. In training steps of the same network.",
        cost_table(costs),
        "![cost by number of neurons](benchmarks-splitting.png)",
        "## Fast eigenvectors against exact ones",
        "Networks trained for 300 steps of 128 digits; statistics on one batch. Cosines are magnitudes; gain is the "
        "sum of the indices found over that of the exact ones. *best 30 %*: what the plugin does, which ends when "
        "these have converged; *all*: every neuron to 0.0001, at most 200 products.",
        agreement_table(),
        "## One growth event",
        "All of it: trace, private copies, statistics, eigenpairs, selection, surgery with Adam state, both probes, "
        "and the loss before and after. Default settings, random data.",
        event_table(),
    ]
    text = "\n\n".join(sections) + "\n"
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        plot(costs, folder / "benchmarks-splitting.png")
        (folder / "benchmarks-splitting.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
