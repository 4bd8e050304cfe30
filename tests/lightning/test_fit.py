"""The callback in real fits."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from fits import Validated, batches, fit, growing, make, plain
from growth.stubs import Asks, Follows, Proposes, has_four_parts, widen, works

import growkit
from growkit_plugins.baselines import Net2Net, RandomUnits
from growkit_plugins.splitting import Splitting

PLUGINS = [Net2Net(0.5), Net2Net(0.5, noise=0.1), RandomUnits(0.5), Splitting(0.5)]


def everything(module) -> float:
    """The loss on all data, without dropout."""
    (batch,) = batches(shuffle=False, size=32)
    with torch.no_grad():
        return module.eval().loss(batch).item()


class Losses(pl.Callback):
    """The training loss of every batch, and the number of parameters it was computed with."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.sizes: list[int] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        self.sizes.append(sum(p.numel() for p in pl_module.parameters()))


class OptimizerHoldsTheModel(pl.Callback):
    """Checks before every optimizer step that the optimizer knows the model's parameters and nothing else."""

    checked = 0

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        present = list(pl_module.parameters())
        assert len(held) == len(set(map(id, held)))
        assert set(map(id, held)) == set(map(id, present))
        assert set(map(id, optimizer.state)) <= set(map(id, present))
        assert all(parameter.grad.shape == parameter.shape for parameter in present)
        for parameter, state in optimizer.state.items():
            for value in state.values():
                assert not isinstance(value, torch.Tensor) or value.shape in {parameter.shape, ()}
        self.checked += 1


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        (growkit.every(epochs=1), [4, 8, 12]),
        (growkit.every(epochs=2), [8]),
        (growkit.every(steps=5), [5, 10, 15]),
        (growkit.every(steps=4), [4, 8, 12]),
    ],
)
def test_growth_happens_at_the_right_steps(when, steps):
    growth, losses = growing(Proposes(widen("second", 0)), when=when), Losses()
    module = make()
    fit(module, growth, losses)
    assert [entry.note["step"] for entry in growth.journal.entries] == steps
    assert [entry.note["epoch"] for entry in growth.journal.entries] == [step // 4 for step in steps]
    start = sum(p.numel() for p in make().parameters())
    assert losses.sizes == [start + 8 * sum(index >= step for step in steps) for index in range(16)]
    assert module.second.out_features == 4 + len(steps) == module.last.in_features


@pytest.mark.parametrize("plugin", PLUGINS, ids=["copies", "noisy copies", "new units", "splits"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_training_goes_on_through_growth(plugin, optimizer):
    module, watch, losses = make(optimizer=optimizer), OptimizerHoldsTheModel(), Losses()
    growth = growing(plugin, when=growkit.every(epochs=2))
    fit(module, growth, watch, losses, epochs=12)
    assert len(growth.journal) == len(growth.events) >= 3
    assert watch.checked == 48
    assert losses.sizes[-1] > losses.sizes[0]
    assert everything(module) < 0.75 * everything(make())
    first_growth = growth.journal.entries[0].note["step"]
    assert sum(losses.losses[-8:]) < sum(losses.losses[first_growth - 8 : first_growth])


def test_without_offsets_the_first_loss_after_growth_is_what_it_would_have_been():
    """Without dropout an exact event is invisible in the loss of the very batch before which it happens."""

    def run(*plugins):
        module, losses = make(), Losses()
        module.dropout.p = 0.0
        fit(module, growing(*plugins, when=growkit.every(steps=3)), losses, limit_train_batches=4, epochs=1)
        return losses.losses

    alone, grown = run(), run(Proposes(widen("first", 1, 1), widen("second", 0, new=2)))
    torch.testing.assert_close(torch.tensor(alone), torch.tensor(grown), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("every", "steps"), [({"steps": 1}, [1, 2, 3]), ({"epochs": 1}, [2])])
def test_gradients_are_accumulated_over_whole_steps(every, steps):
    """Growth never falls between the batches of one optimizer step."""
    growth, watch = growing(Proposes(widen("second", 0)), when=growkit.every(**every)), OptimizerHoldsTheModel()
    seen = []

    class Batches(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append((batch_idx, pl_module.second.out_features))

    run = fit(make(), growth, watch, Batches(), accumulate_grad_batches=3, epochs=2)
    assert run.global_step == 4  # batches 0-2, the rest of the epoch, and once more
    assert [entry.note["step"] for entry in growth.journal.entries] == steps
    sizes = [size for _, size in seen]
    boundaries = [index for index in range(1, 8) if sizes[index] != sizes[index - 1]]
    assert {seen[index][0] for index in boundaries} <= {0, 3}


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_schedule_of_learning_rates_goes_on_as_if_nothing_grew(interval):
    def rates(*plugins):
        seen = []

        class Rates(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                seen.append(trainer.optimizers[0].param_groups[0]["lr"])

        def halving(optimizer):
            return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)

        module = make(scheduler=halving, interval=interval)
        fit(module, growing(*plugins), Rates(), epochs=5)
        return seen

    grown = rates(Proposes(widen("first", 0)))
    assert grown == rates()
    assert grown[0] > grown[-1] > 0


class Falls(Validated):
    """A validation metric that improves three times and then stays."""

    def on_validation_epoch_end(self):
        self.log("score", float(min(self.current_epoch, 2)))


def test_growth_waits_for_a_plateau_of_a_validation_metric():
    growth = growing(Proposes(widen("first", 0)), when=growkit.on_plateau("score", patience=2, mode="max"))
    fit(make(Falls), growth, epochs=9)
    # Scores 0 1 2 2 2 | 2 2 2 | 2: growth before epoch 5, then the first score counts as the best so far.
    assert [entry.note["epoch"] for entry in growth.journal.entries] == [5, 8]


def test_the_sanity_check_is_no_validation():
    growth = growing(Proposes(widen("first", 0)), when=growkit.on_plateau("score", patience=1, mode="max"))
    run = pl.Trainer(
        *(),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_epochs=3,
        callbacks=[growth],
        num_sanity_val_steps=2,
    )
    run.fit(make(Falls), batches(), batches(False))
    assert len(growth.journal) == 0


def test_a_plateau_of_a_metric_that_nobody_logs_is_an_error():
    growth = growing(when=growkit.on_plateau("val_los"))
    with pytest.raises(growkit.GrowkitError, match=r"(?s)'val_los'.*did you mean 'val_loss'") as caught:
        fit(make(Validated), growth)
    assert has_four_parts(caught.value)


def test_a_plateau_that_no_validation_can_ever_show_is_an_error():
    """Otherwise the network would silently never grow."""
    growth = growing(Proposes(widen("first", 0)), when=growkit.on_plateau("train_loss", patience=1))
    with pytest.raises(growkit.GrowkitError, match="valid"):
        fit(make(), growth)


def test_a_failing_event_stops_the_fit_and_leaves_the_module_as_it_was():
    module, without = make(), make()
    fit(without, epochs=1)
    with pytest.raises(growkit.SurgeryError, match=r"(?s)plugin 'proposes' \(this program\).*units from 0 to 3"):
        fit(module, growing(Proposes(widen("second", 0), widen("first", 4))))
    assert plain(module.state_dict()) == plain(without.state_dict())
    assert module.training


def test_after_a_failure_the_module_is_clean():
    module = make()
    with pytest.raises(growkit.SurgeryError):
        fit(module, growing(Proposes(widen("first", 4))))
    assert "on_load_checkpoint" not in vars(module)


def test_an_event_without_proposals_is_no_event():
    growth = growing(Asks(lambda context: None))
    fit(make(), growth)
    assert (len(growth.journal), growth.events) == (0, [])


def test_plugins_see_the_step_the_epoch_and_a_seed_of_their_own():
    stub = Proposes()
    fit(make(), growing(stub, seed=5))
    fit(make(), growing(stub, seed=6))
    assert [(c.step, c.epoch) for c in stub.contexts] == [(4, 1), (8, 2), (12, 3)] * 2
    assert len({context.seed for context in stub.contexts}) == 6


def test_growkit_grown_is_given_the_live_module():
    module, told = make(), []
    fit(module, growing(Proposes(widen("first", 0)), Follows(lambda event, model: told.append(model))))
    assert told == [module] * 3


def test_a_budget_is_kept_over_many_events():
    module = make()
    growth = growing(RandomUnits(1.0), when=growkit.every(steps=1), budget=growkit.Budget(parameters=150))
    fit(module, growth)
    sizes = [entry.note["after"]["parameters"] for entry in growth.journal.entries]
    assert sizes == sorted(sizes)
    assert 140 < sizes[-1] == sum(p.numel() for p in module.parameters()) <= 150


def test_the_module_is_left_as_it_was_found():
    module, without = make(), make()
    fit(module, growing(Proposes(widen("first", 0))))
    fit(without)
    assert set(vars(module)) == set(vars(without)) | {"_growkit_journal"}, "it remembers its edits, nothing else"
    assert module.on_load_checkpoint.__func__ is pl.LightningModule.on_load_checkpoint


def test_a_hook_that_the_user_set_on_the_instance_is_there_again_after_the_fit():
    module = make()
    module.on_load_checkpoint = mine = lambda checkpoint: None
    fit(module, growing(), epochs=1)
    assert vars(module)["on_load_checkpoint"] is mine


def test_one_callback_serves_two_fits_of_different_modules():
    """The second journal must tell of the second module alone, else its checkpoints cannot be loaded."""
    growth = growing(Proposes(widen("first", 0)))
    fit(make(), growth, epochs=2)
    second, fresh = make(), make()
    if works(lambda: fit(second, growth, epochs=2)):
        growth.journal.replay(fresh, example=(torch.zeros(2, 6),))
        fresh.load_state_dict(second.state_dict())


def test_the_state_that_is_saved_because_of_a_failure_names_the_parameters_of_the_optimizer():
    growth, module = growing(Proposes(widen("first", 9))), make()
    with pytest.raises(growkit.SurgeryError):
        fit(module, growth, epochs=3)
    ((names,),) = growth.state_dict()["layout"]
    assert names == [name for name, _ in module.named_parameters()]
