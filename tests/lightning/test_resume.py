"""A run that is interrupted after an epoch and resumed equals the uninterrupted run, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fits import OPTIMIZERS, Net, Validated, differences, fit, growing, make, outcome, samples
from growth.stubs import Asks, Proposes, widen
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

import growkit
from growkit_plugins.baselines import Net2Net, RandomUnits
from growkit_plugins.splitting import Splitting

# A resumed run saves into the folder of the interrupted one, which Lightning points out.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

EPOCHS, STOP = 6, 3

# Every way to save after an epoch: the options of the callback, and the name of the file to resume from.
CHECKPOINTS: dict[str, tuple[dict[str, Any], str]] = {
    "default": ({}, "epoch=2-step=12.ckpt"),
    "all epochs": ({"save_top_k": -1}, "epoch=2-step=12.ckpt"),
    "last": ({"save_last": True}, "last.ckpt"),
    "last alone": ({"save_last": True, "save_top_k": 0}, "last.ckpt"),
    "steps": ({"every_n_train_steps": 4, "save_top_k": -1}, "epoch=2-step=12.ckpt"),
    "monitor": ({"monitor": "train_loss", "save_top_k": -1}, "epoch=2-step=12.ckpt"),
}


class Runs:
    """The same training twice: whole, and in two pieces with nothing but a file in between."""

    def __init__(
        self,
        folder: Path,
        module: Callable[[], Net],
        growth: Callable[[], growkit.Growth],
        checkpoint: str = "default",
        **options: Any,
    ) -> None:
        self.folder, self.module, self.growth, self.options = folder, module, growth, options
        self.saving, self.file = CHECKPOINTS[checkpoint]

    def run(self, epochs: int, part: str, ckpt_path: Path | None = None) -> dict[str, Any]:
        module, growth = self.module(), self.growth()
        saver = ModelCheckpoint(self.folder / part, **self.saving)
        options = {key: make() for key, make in self.options.items()}
        seed = 2 if ckpt_path is None else 77  # another process brings random numbers from somewhere else
        run = fit(module, growth, saver, epochs=epochs, ckpt_path=ckpt_path, seed=seed, **options)
        return outcome(run, module, growth)

    def whole(self) -> dict[str, Any]:
        return self.run(EPOCHS, "whole")

    def stopped(self) -> dict[str, Any]:
        self.run(STOP, "parts")
        return self.run(EPOCHS, "parts", self.folder / "parts" / self.file)

    def killed(self) -> dict[str, Any]:
        """The first piece was meant to run to the end: it is the whole run, of which only a file is left."""
        self.run(EPOCHS, "parts")
        return self.run(EPOCHS, "parts", self.folder / "parts" / self.file)


def grows_before_and_after(result: dict[str, Any]) -> bool:
    steps = [entry.note["step"] for entry in growkit.Journal.from_json(result["journal"]).entries]
    return any(step < STOP * 4 for step in steps) and any(step >= STOP * 4 for step in steps)


METHODS: dict[str, Callable[[], growkit.Plugin]] = {
    "copies": lambda: Net2Net(0.3, noise=0.05),
    "new units": lambda: RandomUnits(0.3),
    "splits": lambda: Splitting(0.3, step=0.05, batches=2),
}
SCHEDULES: dict[str, Callable[[], growkit.Schedule]] = {
    "epochs": lambda: growkit.every(epochs=1),
    "steps": lambda: growkit.every(steps=3),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_run_equals_the_uninterrupted_run(optimizer, method, schedule, tmp_path):
    runs = Runs(
        tmp_path, lambda: make(optimizer=optimizer), lambda: growing(METHODS[method](), when=SCHEDULES[schedule]())
    )
    whole = runs.whole()
    assert grows_before_and_after(whole)
    assert differences(whole, runs.stopped()) == []


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("validated", [False, True], ids=["no validation", "validation"])
def test_it_does_not_matter_how_the_checkpoint_was_saved(checkpoint, validated, tmp_path):
    runs = Runs(
        *(tmp_path, lambda: make(Validated if validated else Net, optimizer="adam"), lambda: growing(Splitting(0.3))),
        checkpoint=checkpoint,
    )
    whole = runs.whole()
    assert grows_before_and_after(whole)
    assert differences(whole, runs.stopped()) == []


@pytest.mark.parametrize("checkpoint", ["all epochs", "steps", "monitor"])
def test_a_killed_run_goes_on_from_its_last_file(checkpoint, tmp_path):
    runs = Runs(tmp_path, lambda: make(optimizer="rmsprop"), lambda: growing(Splitting(0.3)), checkpoint=checkpoint)
    assert differences(runs.whole(), runs.killed()) == []


class Images(Net):
    """Convolutions that start as narrow as can be, and a flatten."""

    def __init__(self):
        super().__init__("adam")
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 1, 2, padding=1), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 6, 2), nn.GELU()),
            *(nn.Flatten(), nn.Linear(36, 6), nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, 3)),
        )

    def forward(self, x):
        return self.body(x.view(-1, 1, 2, 3))


class Residual(Net):
    """A stream that several layers write to and read from, also behind a concatenation."""

    def __init__(self):
        super().__init__("adamw")
        self.enter, self.inner, self.outer, self.leave = map(nn.Linear, (6, 4, 4, 8), (4, 4, 4, 3))

    def forward(self, x):
        stream = self.enter(x)
        stream = stream + self.outer(self.inner(stream).relu())
        return self.leave(torch.cat([stream, self.inner(stream).relu()], 1))


@pytest.mark.parametrize("kind", [Images, Residual])
@pytest.mark.parametrize("method", ["copies", "new units"])
def test_other_structures(kind, method, tmp_path):
    runs = Runs(tmp_path, lambda: make(kind), lambda: growing(METHODS[method]()))
    whole = runs.whole()
    assert grows_before_and_after(whole)
    assert differences(whole, runs.stopped()) == []


def test_interrupted_twice(tmp_path):
    runs = Runs(tmp_path, lambda: make(optimizer="adamw"), lambda: growing(Net2Net(0.3, noise=0.1)), "last")
    whole = runs.whole()
    runs.run(1, "parts")
    runs.run(4, "parts", tmp_path / "parts" / "last.ckpt")
    assert differences(whole, runs.run(EPOCHS, "parts", tmp_path / "parts" / "last.ckpt")) == []


def test_a_plateau_under_way_is_remembered(tmp_path):
    class Falls(Validated):
        def on_validation_epoch_end(self):
            self.log("score", float(min(self.current_epoch, 1)))

    when = lambda: growkit.on_plateau("score", patience=2, mode="max")  # noqa: E731
    runs = Runs(
        *(tmp_path, lambda: make(Falls), lambda: growing(Net2Net(0.5, noise=0.1), when=when())),
    )
    whole = runs.whole()
    assert [entry.note["epoch"] for entry in growkit.Journal.from_json(whole["journal"]).entries] == [4]
    assert differences(whole, runs.stopped()) == []


def test_accumulated_gradients(tmp_path):
    runs = Runs(
        *(
            tmp_path,
            lambda: make(optimizer="adam"),
            lambda: growing(Splitting(0.3), when=growkit.every(steps=2)),
            "last",
        ),
        accumulate_grad_batches=lambda: 3,
    )
    whole = runs.whole()
    assert len(growkit.Journal.from_json(whole["journal"])) == 5
    assert differences(whole, runs.stopped()) == []


class Augmented(Net):
    """Draws from every global generator in each step."""

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        noise = torch.randn_like(inputs) * np.random.rand() + random.random()
        return self.loss((inputs + 0.1 * noise, labels))


def test_every_generator_goes_on_where_it_was(tmp_path):
    runs = Runs(tmp_path, lambda: make(Augmented), lambda: growing(Splitting(0.3)))
    assert differences(runs.whole(), runs.stopped()) == []


@pytest.mark.parametrize(
    ("kind", "interval"), [("step", "epoch"), ("step", "step"), ("cosine", "epoch"), ("one cycle", "step")]
)
@pytest.mark.parametrize("checkpoint", ["default", "last"])
def test_learning_rates(kind, interval, checkpoint, tmp_path):
    schedulers = {
        "step": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
        "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 24),
        "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=25),
    }
    runs = Runs(
        tmp_path,
        lambda: make(optimizer="sgd", scheduler=schedulers[kind], interval=interval),
        lambda: growing(Splitting(0.3)),
        checkpoint,
    )
    assert differences(runs.whole(), runs.stopped()) == []


def test_learning_rates_that_wait_for_a_plateau(tmp_path):
    def waiting(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)

    runs = Runs(
        *(tmp_path, lambda: make(Validated, scheduler=waiting), lambda: growing(Splitting(0.3))),
    )
    assert differences(runs.whole(), runs.stopped()) == []


def test_a_loader_that_shuffles_with_a_generator_of_its_own(tmp_path):
    def own():
        return DataLoader(samples(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3))

    runs = Runs(tmp_path, make, lambda: growing(Splitting(0.3)), loader=own)
    assert differences(runs.whole(), runs.stopped()) == []


class Remembers(growkit.Plugin):
    """Copies unit 0, then 1, then 2, ...: what it does depends on what it did."""

    def __init__(self) -> None:
        self.turn = 0

    @growkit.hookimpl
    def growkit_propose(self, context):
        self.turn += 1
        return [widen("first", (self.turn - 1) % 4)]

    def state_dict(self):
        return {"turn": self.turn, "tensor": torch.tensor(self.turn)}

    def load_state_dict(self, state):
        assert state["tensor"].item() == state["turn"]
        self.turn = state["turn"]


def test_a_plugin_goes_on_from_its_state(tmp_path):
    runs = Runs(tmp_path, make, lambda: growing(Remembers()))
    whole = runs.whole()
    copies = [edit.copies for edit in growkit.Journal.from_json(whole["journal"]).edits]
    assert copies == [(0,), (1,), (2,), (3,), (0,)]
    assert differences(whole, runs.stopped()) == []


def test_an_installed_plugin_goes_on_from_its_state(tmp_path, monkeypatch):
    class Entry:
        name, value, dist = "remembers", "somewhere:plugin", None

        def load(self):
            return Remembers()

    monkeypatch.setattr("growkit.plugins.entry_points", lambda group: [Entry()])
    runs = Runs(tmp_path, make, growing)
    whole = runs.whole()
    assert len(growkit.Journal.from_json(whole["journal"])) == 5
    assert differences(whole, runs.stopped()) == []


def test_blocks_are_there_again_with_their_optimizer_state(tmp_path):
    def deepen(context):
        yield growkit.Candidate(growkit.Deepen("body.0", "linear", 4, hidden=context.epoch))
        yield widen("body.2", 0)

    class Deep(Net):
        def __init__(self):
            super().__init__("adam")
            self.body = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())

        def forward(self, x):
            return self.last(self.dropout(self.body(x)))

        def configure_optimizers(self):
            return torch.optim.Adam([*self.body.parameters(), *self.last.parameters()], lr=0.01)

    runs = Runs(tmp_path, lambda: make(Deep), lambda: growing(Asks(deepen), when=growkit.every(epochs=2)))
    whole = runs.whole()
    assert grows_before_and_after(whole)
    assert differences(whole, runs.stopped()) == []


@pytest.mark.parametrize("deep", [False, True], ids=["widened", "deepened"])
def test_groups_of_the_optimizer_keep_their_parameters(deep, tmp_path):
    """Two groups by kind, as for weight decay: positions in the optimizer are not those in the model."""

    class Grouped(Net):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())

        def forward(self, x):
            return self.last(self.body(x))

        def configure_optimizers(self):
            used = [*self.body.parameters(), *self.last.parameters()]
            decayed, free = [p for p in used if p.dim() > 1], [p for p in used if p.dim() < 2]
            return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": free}], lr=0.01)

    block = growkit.Candidate(growkit.Deepen("body.0", "linear", 4))
    stub = (lambda: Proposes(block)) if deep else (lambda: Proposes(widen("body.0", 1), widen("body.2", new=1)))
    runs = Runs(tmp_path, lambda: make(Grouped), lambda: growing(stub(), when=growkit.every(epochs=2)))
    whole = runs.whole()
    assert grows_before_and_after(whole)
    assert differences(whole, runs.stopped()) == []


def test_the_interrupted_fit_may_go_on_in_the_same_process_with_the_same_callback(tmp_path):
    class Fails(Net):
        def on_train_epoch_start(self):
            if self.current_epoch == STOP:
                raise InterruptedError

    runs = Runs(tmp_path, lambda: make(optimizer="adam"), lambda: growing(Splitting(0.3)), "last")
    whole, growth = runs.whole(), growing(Splitting(0.3))
    with pytest.raises(InterruptedError):
        fit(make(Fails, optimizer="adam"), growth, ModelCheckpoint(tmp_path / "parts", save_last=True), epochs=EPOCHS)
    module = make(optimizer="adam")
    saver = ModelCheckpoint(tmp_path / "parts", save_last=True)
    run = fit(module, growth, saver, epochs=EPOCHS, seed=77, ckpt_path=tmp_path / "parts" / "last.ckpt")
    assert differences(whole, outcome(run, module, growth)) == []


def test_the_checkpoint_of_an_exception_after_growth_does_not_grow_twice(tmp_path):
    """Growth comes before the step: a checkpoint that is saved in between must not lead to the same event again."""

    class Fails(Net):
        def training_step(self, batch, batch_idx):
            if self.training and self.trainer.global_step == 8 and not failed:
                failed.append(True)
                raise InterruptedError
            return super().training_step(batch, batch_idx)

    failed: list[bool] = []
    saver = ModelCheckpoint(tmp_path, save_on_exception=True, filename="saved", save_top_k=0)
    growth = growing(Proposes(widen("first", 0)))
    with pytest.raises(InterruptedError):
        fit(make(Fails), growth, saver)
    (path,) = tmp_path.glob("*.ckpt")
    module, resumed = make(Fails), growing(Proposes(widen("first", 0)))
    fit(module, resumed, ModelCheckpoint(tmp_path, save_top_k=0), ckpt_path=path)
    assert [entry.note["step"] for entry in resumed.journal.entries] == [4, 8, 12]


def test_the_first_event_may_come_after_the_interruption(tmp_path):
    runs = Runs(tmp_path, make, lambda: growing(Splitting(0.5), when=growkit.every(epochs=5)))
    whole = runs.whole()
    assert len(growkit.Journal.from_json(whole["journal"])) == 1
    assert differences(whole, runs.stopped()) == []


def test_the_test_sees_a_difference(tmp_path):
    """With another seed of growth after the interruption, the comparison above fails."""
    runs = Runs(tmp_path, make, lambda: growing(Net2Net(0.3, noise=0.05), seed=0))
    whole = runs.whole()
    runs.run(STOP, "parts")
    runs.growth = lambda: growing(Net2Net(0.3, noise=0.05), seed=1)
    resumed = runs.run(EPOCHS, "parts", tmp_path / "parts" / runs.file)
    assert {"weights", "optimizers", "journal"} <= set(differences(whole, resumed))
