"""The batches that plugins look at: they are what training sees, and looking at them does not disturb training."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torchmetrics
from fits import Net, Validated, batches, fit, growing, make, outcome, plain, samples
from growth.stubs import Asks, Proposes, has_four_parts, widen
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, SubsetRandomSampler

import growkit


def looking(count: int, seen: list, with_loss: bool = True) -> Asks:
    """A plugin that looks at batches and at the loss, and proposes nothing."""

    def look(context):
        for batch in context.batches(count):
            loss = context.loss(batch) if with_loss else None
            if loss is not None:
                loss.backward()
            seen.append((batch, loss))

    return Asks(look)


class Busy(Validated):
    """Logs metrics, returns a dict, and draws random numbers in every step."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.accuracy = torchmetrics.MeanMetric()

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        loss = self.loss((inputs + 0.1 * torch.randn_like(inputs) * np.random.rand() * random.random(), labels))
        self.accuracy(loss.detach())
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log_dict({"train_loss": loss}, prog_bar=True)
        return {"loss": loss, "more": labels}


class Jittered(Dataset):
    """Draws from every global generator for each sample."""

    def __init__(self):
        self.samples = samples()

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        inputs, label = self.samples[index]
        return inputs + 0.1 * torch.randn(6) * random.random() * np.random.rand(), label


@pytest.mark.parametrize("count", [1, 2, 99])
@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_looking_without_growing_leaves_training_bit_for_bit_the_same(count, interval):
    def run(*callbacks):
        def halving(optimizer):
            return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)

        module = make(Busy, optimizer="adam", scheduler=halving, interval=interval)
        loader = DataLoader(Jittered(), batch_size=8, shuffle=True)
        trained = fit(module, *callbacks, loader=loader, accumulate_grad_batches=2, epochs=3)
        result = outcome(trained, module, callbacks[0] if callbacks else growing())
        return result, plain(dict(trained.callback_metrics)), module.accuracy._computed

    seen = []
    with_growth = run(growing(looking(count, seen), when=growkit.every(steps=1)))
    assert with_growth == run()
    assert len(seen) == 5 * min(count, 4)
    assert with_growth[1]["train_loss"]


def test_random_training_batches_other_ones_at_every_event():
    seen = []
    fit(make(), growing(looking(2, seen), when=growkit.every(steps=5)))
    inputs = [batch[0] for batch, _ in seen]
    known = {tuple(row) for row in samples().tensors[0].tolist()}
    assert [x.shape for x in inputs] == [(8, 6)] * 6
    assert all({tuple(row) for row in x.tolist()} <= known for x in inputs)
    assert not torch.equal(inputs[0], inputs[2])
    assert not torch.equal(inputs[0], inputs[1])
    assert all(loss.dim() == 0 and loss.item() > 0 for _, loss in seen)


def test_one_pass_over_the_training_set_is_all_there_is():
    seen = []
    fit(make(), growing(looking(99, seen), when=growkit.every(epochs=3)))
    assert sorted(torch.cat([batch[0] for batch, _ in seen])[:, 0].tolist()) == sorted(
        samples().tensors[0][:, 0].tolist()
    )


def test_only_samples_that_the_training_loader_draws():
    """Training and validation sets are often split by samplers; statistics must not see the other part."""
    chosen = list(range(16))
    loader = DataLoader(samples(), batch_size=8, sampler=SubsetRandomSampler(chosen))
    seen = []
    fit(make(), growing(looking(99, seen)), loader=loader)
    allowed = {tuple(row) for row in samples().tensors[0][chosen].tolist()}
    assert seen
    assert {tuple(row) for batch, _ in seen for row in batch[0].tolist()} <= allowed


def test_the_size_of_batches_that_a_batch_sampler_makes():
    sampler = BatchSampler(SequentialSampler(samples()), batch_size=8, drop_last=False)
    seen = []
    fit(make(), growing(looking(2, seen)), loader=DataLoader(samples(), batch_sampler=sampler))
    assert {len(batch[0]) for batch, _ in seen} == {8}


class WholeBatches(Dataset):
    """Each item is a batch; its loader does not batch again."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        inputs, labels = samples().tensors
        return inputs[8 * index : 8 * index + 8], labels[8 * index : 8 * index + 8]


def test_a_data_set_of_whole_batches():
    seen = []
    fit(make(), growing(looking(2, seen)), loader=DataLoader(WholeBatches(), batch_size=None))
    assert {batch[0].shape for batch, _ in seen} == {(8, 6)}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(samples())


class Batches:
    """Something that yields batches but is no DataLoader."""

    def __iter__(self):
        return iter(batches(False))

    def __len__(self):
        return 4


@pytest.mark.parametrize("loader", [DataLoader(Stream(), batch_size=8), Batches()], ids=["stream", "own loader"])
def test_data_that_cannot_be_indexed_gives_the_batch_at_hand(loader):
    seen = []
    fit(make(), growing(looking(3, seen)), loader=loader, limit_train_batches=4)
    first = samples().tensors[0][:8]
    assert len(seen) == 3
    assert all(torch.equal(batch[0], first) for batch, _ in seen)


class Transformed(Net):
    """Changes every batch on its way to the device."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch[0] + 100, batch[1]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] * 2, batch[1]


def test_batches_are_transferred_as_in_training():
    seen = []
    fit(make(Transformed), growing(looking(2, seen)))
    assert all(batch[0].min() > 150 and batch[0].max() < 250 for batch, _ in seen)


def test_batches_have_the_precision_of_training():
    seen = []
    fit(make(), growing(looking(2, seen), Proposes(widen("first", 0))), precision="64-true")
    assert {batch[0].dtype for batch, _ in seen} == {torch.float64}


# ---------------------------------------------------------------- the loss


class NoIndex(Net):
    def training_step(self, batch):
        return self.loss(batch)


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class Keeps(Net):
    """Holds on to a tensor of its last step, with its graph."""

    def loss(self, batch):
        self.last_loss = super().loss(batch)
        return self.last_loss


class Nothing(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) if self.training else None


@pytest.mark.parametrize("kind", [Net, NoIndex, Busy, Keeps])
def test_the_loss_of_any_training_step(kind):
    seen = []
    fit(make(kind), growing(looking(2, seen)), epochs=2)
    assert len(seen) == 2
    assert all(loss.dim() == 0 and loss.grad_fn is not None for _, loss in seen)


def test_a_loss_of_ones_own_serves_manual_optimisation():
    seen, module = [], make(Manual)
    growth = growing(
        *(looking(2, seen), Proposes(widen("first", 0))), loss=lambda module, batch: module.loss(batch) + 1000
    )
    run = fit(module, growth)
    assert [loss.item() > 1000 for _, loss in seen] == [True] * 6
    assert module.first.out_features == 7
    assert {id(p) for group in run.optimizers[0].param_groups for p in group["params"]} == set(
        map(id, module.parameters())
    )


def test_a_training_step_that_gives_no_loss_is_an_error_that_says_so():
    with pytest.raises(growkit.GrowkitError, match=r"(?s)Nothing\.training_step.*Growth\(loss=") as caught:
        fit(make(Nothing), growing(looking(1, [])))
    assert has_four_parts(caught.value)


def test_the_loss_is_that_of_the_private_copy_without_dropout():
    module, seen = make(), []

    def look(context):
        for batch in context.batches(2):
            seen.append((context.loss(batch).item(), context.loss(batch).item()))
            live = module.training, module.eval().loss(batch).item()
            module.train(live[0])
            assert live[0]
            assert seen[-1][0] == pytest.approx(live[1], rel=1e-6)

    fit(module, growing(Asks(look)), epochs=2)
    assert len(seen) == 2
    assert all(one == two for one, two in seen)


# ---------------------------------------------------------------- the example


class Keywords(Net):
    """Takes its batches as dicts, and its inputs by name."""

    def forward(self, *, pixels):
        return super().forward(pixels)

    def loss(self, batch) -> Tensor:
        return torch.nn.functional.cross_entropy(self(pixels=batch["pixels"]), batch["label"])


def dicts() -> DataLoader:
    return DataLoader([{"pixels": inputs, "label": label} for inputs, label in samples()], batch_size=8)


def test_an_example_that_cannot_be_guessed_is_an_error_that_says_what_to_do():
    with pytest.raises(growkit.StructureError, match=r"(?s)Keywords\.forward.*dict.*example") as caught:
        fit(make(Keywords), growing(Proposes(widen("first", 0))), loader=dicts())
    assert has_four_parts(caught.value)


def test_an_example_of_ones_own():
    growth = growing(Proposes(widen("first", 0)), example=lambda batch: {"pixels": batch["pixels"][:2]})
    module = make(Keywords)
    fit(module, growth, loader=dicts())
    assert module.first.out_features == 7


@pytest.mark.parametrize("given", [torch.ones(2, 6), (torch.ones(2, 6),), {"pixels": torch.ones(2, 6)}], ids=type)
def test_an_example_input_array_is_preferred(given):
    kind = Keywords if isinstance(given, dict) else Net
    module, growth = make(kind), growing(Proposes(widen("first", 0)))
    module.example_input_array = given
    fit(module, growth, loader=dicts() if kind is Keywords else None)
    assert plain(growth.example) == plain(given if isinstance(given, (dict, tuple)) else (given,))
    assert module.first.out_features == 7


def test_the_example_is_the_start_of_the_first_batch():
    growth = growing()
    fit(make(), growth, loader=batches(shuffle=False))
    assert torch.equal(growth.example[0], samples().tensors[0][:2])


class Alone(Net):
    """Its batches are bare tensors."""

    def loss(self, batch) -> Tensor:
        return self(batch).square().mean()


def test_batches_of_bare_tensors():
    module = make(Alone)
    fit(module, growing(Proposes(widen("first", 0))), loader=DataLoader(samples().tensors[0], batch_size=8))
    assert module.first.out_features == 7


def test_an_example_does_not_change_when_training_changes_the_batch_in_place():
    class InPlace(Net):
        def training_step(self, batch, batch_idx):
            loss = self.loss((batch[0].clone(), batch[1]))
            batch[0].fill_(7.0)
            return loss

    growth = growing()
    fit(make(InPlace), growth, loader=batches(shuffle=False), epochs=1)
    assert torch.equal(growth.example[0], samples().tensors[0][:2])
