"""What a demanding user has found, each in its smallest form."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from fits import Net, Validated, batches, differences, fit, growing, make, outcome, plain, samples
from growth.stubs import Asks, Follows, Proposes, widen
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import BatchSampler, DataLoader, Sampler

import growkit

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


class Staged(DataLoader):
    """A curriculum: later epochs scale the data."""

    stage = 1.0

    def __iter__(self):
        return (([self.stage * x, y]) for x, y in super().__iter__())


def test_what_is_set_on_the_loader_during_training_counts():
    class Raises(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            loader.stage = 1.0 + trainer.current_epoch

    sizes = []

    class Looks(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0:
                sizes.append(float(batch[0].abs().mean()))

    loader = Staged(samples(8), batch_size=8)
    fit(make(), growing(), Raises(), Looks(), loader=loader, epochs=3)
    assert np.allclose(sizes, [sizes[0], 2 * sizes[0], 3 * sizes[0]])


def test_a_training_step_that_works_in_place_changes_no_batch_but_its_own():
    class InPlace(Net):
        def training_step(self, batch, batch_idx):
            inputs, labels = batch
            return F.cross_entropy(self(inputs.mul_(3)), labels)

    def look(context):
        for batch in context.batches(1):
            context.loss(batch)
            batch[0].zero_()
        return []

    runs = []
    for plugins in ([], [Asks(look)]):
        module, growth = make(InPlace), growing(*plugins)
        runs.append(outcome(fit(module, growth), module, growth))
    assert differences(*runs) == []


class Own(Sampler):
    """Draws from a generator of its own kind."""

    def __init__(self, data):
        self.data, self.random = data, np.random.default_rng(0)

    def __iter__(self):
        return iter(self.random.permutation(len(self.data)).tolist())

    def __len__(self):
        return len(self.data)


@pytest.mark.parametrize("whole", [False, True], ids=["sampler", "batch sampler"])
def test_statistics_leave_samplers_with_generators_of_their_own_alone(whole):
    runs = []
    for plugins in ([], [Asks(lambda context: list(context.batches(3)) and [])]):
        data = samples()
        options = (
            {"batch_sampler": BatchSampler(Own(data), 8, False)} if whole else {"sampler": Own(data), "batch_size": 8}
        )
        module, growth = make(), growing(*plugins)
        runs.append(outcome(fit(module, growth, loader=DataLoader(data, **options)), module, growth))
    assert differences(*runs) == []


@pytest.mark.parametrize("act", [lambda module: module.eval(), lambda module: module.first.requires_grad_(False)])
def test_modes_that_a_hook_leaves_behind_are_found_out(act):
    with pytest.raises(growkit.PluginError, match=r"(training|requires_grad)' was changed"):
        fit(make(), growing(Proposes(widen("first", 0)), Follows(lambda event, module: act(module) and None)))


@pytest.mark.parametrize("hook", ["growkit_rewarm", "growkit_carry_optimizer_state", "growkit_resize_module"])
def test_no_hook_draws_from_the_generators_of_the_run(hook):
    names = {"growkit_rewarm": "event", "growkit_carry_optimizer_state": "optimizer", "growkit_resize_module": "module"}
    space: dict[str, object] = {"torch": torch, "growkit": growkit}
    exec(f"@growkit.hookimpl\ndef {hook}(self, {names[hook]}):\n    torch.rand(3)\n", space)
    draws = type("Draws", (growkit.Plugin,), {hook: space[hook]})()
    runs = []
    for plugins in ([], [draws]):
        module, growth = make(optimizer="adam"), growing(Proposes(widen("first", 0)), *plugins)
        runs.append(outcome(fit(module, growth), module, growth))
    assert differences(*runs) == []


class Apart(Net):
    """Keeps an optimizer to itself."""

    def __init__(self):
        super().__init__()
        self.apart = torch.optim.SGD(self.last.parameters(), lr=0.1)

    def configure_optimizers(self):
        return torch.optim.SGD([p for n, p in self.named_parameters() if not n.startswith("last")], lr=0.05)

    def on_before_optimizer_step(self, optimizer):
        self.apart.step()


def test_an_optimizer_that_the_module_keeps_to_itself_follows():
    module = make(Apart)
    before = module.last.weight.detach().clone()
    fit(module, growing(Proposes(widen("second", 0))), epochs=2)
    assert [id(p) for p in module.apart.param_groups[0]["params"]] == [id(p) for p in module.last.parameters()]
    assert module.last.weight.shape != before.shape


class Flat(torch.optim.SGD):
    """Steps over a list of its own."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)
        self.flat = list(self.param_groups[0]["params"])


def test_an_optimizer_with_a_list_of_its_own_is_refused():
    class Flatly(Net):
        def configure_optimizers(self):
            return Flat(self.parameters(), 0.05)

    with pytest.raises(growkit.SurgeryError, match="Flat keeps parameters where growkit cannot exchange them"):
        fit(make(Flatly), growing(Proposes(widen("first", 0))))


def test_a_checkpoint_saved_after_the_fit_knows_the_optimizer(tmp_path):
    module, growth = make(optimizer="adam"), growing(Proposes(widen("first", 0)), rewarm=growkit.Rewarm(50))
    run = fit(module, growth, ModelCheckpoint(tmp_path, save_last=True), epochs=2)
    run.save_checkpoint(tmp_path / "after.ckpt")
    states = [
        torch.load(tmp_path / name, weights_only=True)["callbacks"]["growkit.Growth"]
        for name in ("last.ckpt", "after.ckpt")
    ]
    assert states[1]["layout"] == states[0]["layout"] != []
    assert states[1]["rewarm"] == states[0]["rewarm"] is not None


def test_a_checkpoint_saved_because_of_a_failure_goes_on_with_the_same_batches(tmp_path):
    class Fails(Net):
        def on_train_batch_start(self, batch, batch_idx):
            if self.trainer.global_step == 6 and not failed:
                failed.append(True)
                raise InterruptedError
            if failed:
                seen.append(plain(batch))

    failed, seen = [], []
    saver = ModelCheckpoint(tmp_path, save_on_exception=True, filename="saved", save_top_k=0)
    with pytest.raises(InterruptedError):
        fit(make(Fails), growing(), saver, epochs=2)
    module = make(Fails)
    fit(module, growing(), ckpt_path=tmp_path / "saved.ckpt", epochs=2, seed=77)
    expected = []

    class Notes(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            expected.append(plain(batch))

    fit(make(), growing(), Notes(), epochs=2)
    assert seen == expected[6:]


def test_a_second_fit_starts_to_wait_anew():
    when = growkit.on_plateau("val_loss", patience=2)
    growth = growing(when=when)
    when.observe({"val_loss": -9.0})
    fit(make(), growing(when=growkit.every(steps=99)), epochs=1)
    fit(make(Validated), growth, epochs=1)
    assert when.state_dict()["best"] > -9.0


def test_events_keep_no_tensors():
    growth = growing(Proposes(widen("first", 0)))
    fit(make(), growth)
    assert all(dict(event.change.parameters) == {} for event in growth.events)
    assert all(event.change.edits for event in growth.events)


def test_the_loaders_of_a_manual_module_keep_gradients_under_way(tmp_path):
    class Manual(Net):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.manual_backward(self.loss(batch))
            if batch_idx % 4 == 3:
                self.optimizers().step()
                self.optimizers().zero_grad()

    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 1:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    runs = []
    for path, seed in ((None, 2), (tmp_path / "saved.ckpt", 77)):
        module, growth = make(Manual, optimizer="adam"), growing(loss=lambda module, batch: module.loss(batch))
        runs.append(outcome(fit(module, growth, Saves(), epochs=3, ckpt_path=path, seed=seed), module, growth))
    assert differences(*runs) == []


def test_a_checkpoint_saved_before_the_first_batch_resumes(tmp_path):
    class Saves(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 0 and trainer.global_step == 0:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    fit(make(), growing(), Saves(), epochs=2)
    run = fit(make(), growing(), ckpt_path=tmp_path / "saved.ckpt", epochs=2)
    assert run.global_step == 8
    assert len(batches()) == 4
