"""What events did to the training loss, in real fits."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from fits import Net, differences, fit, growing, make, outcome
from growth.stubs import Asks, Proposes, widen
from pytorch_lightning.callbacks import Callback


class Keeps(Callback):
    """Copies of the module, and the batches, as each training batch begins."""

    def __init__(self) -> None:
        self.modules, self.batches = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.modules.append(copy.deepcopy(pl_module.eval()))
        self.batches.append(batch)
        pl_module.train()


def loss_of(module, batches) -> float:
    with torch.no_grad():
        return sum(module.loss(batch).item() for batch in batches) / len(batches)


def test_the_note_has_the_loss_of_the_coming_batch_before_and_after():
    before, after = Keeps(), Keeps()
    growth = growing(Proposes(widen("first", 1, bias__first=torch.tensor([0.4, -0.3]), gain=0.25)))
    fit(make(), before, growth, after)
    for number, event in zip((4, 8, 12), growth.events, strict=True):
        batches = [before.batches[number]]
        expected = {
            "before": loss_of(before.modules[number], batches),
            "after": loss_of(after.modules[number], batches),
        }
        assert event.note["loss"] == pytest.approx(expected)
        assert abs(expected["after"] - expected["before"]) > 1e-5


def test_the_statistics_batches_are_those_that_plugins_saw():
    seen = []

    def look(context):
        seen.append([context.loss(batch).item() for batch in context.batches(3)])
        return [widen("first", 1)]

    growth = growing(Asks(look))
    fit(make(), growth)
    for losses, event in zip(seen, growth.events, strict=True):
        mean = pytest.approx(sum(losses) / 3, rel=1e-5)
        assert event.note["loss"] == {"before": mean, "after": mean}


def test_training_does_not_notice(monkeypatch):
    def run():
        module, growth = make(optimizer="adam"), growing(Proposes(widen("first", 0)))
        return outcome(fit(module, growth), module, growth)

    with_it = run()
    monkeypatch.setattr(
        "growkit.growth.event.LossChange", lambda context: type("Nothing", (), {"after": lambda _: None})()
    )
    assert differences(with_it, run()) == ["journal"]


def test_the_copies_are_gone_when_the_event_is_over():
    alive = []

    def loss(module, batch):
        alive.append(weakref.ref(module))
        return module.loss(batch)

    class Looks(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            assert [reference() for reference in alive] == [None] * len(alive)

    gc.disable()
    try:
        fit(make(), growing(Proposes(widen("first", 0)), loss=loss), Looks())
    finally:
        gc.enable()
    assert len(alive) == 6


def test_a_module_whose_loss_growth_cannot_compute_grows_all_the_same(caplog):
    class Manual(Net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    growth = growing(Proposes(widen("first", 0)))
    fit(make(Manual), growth)
    assert [event.note["loss"] for event in growth.events] == [None] * 3
    assert "not measured" in caplog.text


def test_the_log_says_what_was_predicted_and_what_came(caplog):
    with caplog.at_level("INFO", logger="growkit"):
        fit(make(), growing(Proposes(widen("first", 0, gain=0.125))), epochs=2)
    assert "71 -> 84 parameters; loss " in caplog.text
    assert "predicted 0.125" in caplog.text
