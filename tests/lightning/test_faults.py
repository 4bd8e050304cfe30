"""Events that fail, and files that cannot be written: training goes on or stops with everything as it was."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from fits import Net, batches, differences, fit, growing, make, outcome, seed_all, trainer
from growth.stubs import Asks, Follows, Proposes, has_four_parts, widen
from pytorch_lightning.callbacks import ModelCheckpoint

import growkit
from growkit.lightning.files import WholeFiles

GOOD = widen("first", 0)


def raising(error: BaseException):
    def act(*_: object) -> None:
        raise error

    return act


def spoil(happened: growkit.Event, module: Net) -> None:
    """Half of a hook: it has written to the module already."""
    with torch.no_grad():
        module.last.weight.zero_()
    raise ZeroDivisionError("oh")


def short_of_memory(error: BaseException):
    """Let the copies that an event makes run out of memory at the third one."""

    def patch(monkeypatch) -> list[growkit.Plugin]:
        apply = sys.modules["growkit.surgery.apply"]
        real, calls = apply.apply_maps, []

        def apply_maps(*arguments):
            calls.append(0)
            if len(calls) == 3:
                raise error
            return real(*arguments)

        monkeypatch.setattr(apply, "apply_maps", apply_maps)
        return [Proposes(GOOD)]

    return patch


FAULTS = {
    "a plugin raises": lambda _: [Asks(raising(ZeroDivisionError("oh")))],
    "a gain is NaN": lambda _: [Asks(lambda context: [widen("first", 0, gain=float("nan"))])],
    "offsets are NaN": lambda _: [Proposes(widen("first", 0, bias__first=torch.full((2,), float("nan"))))],
    "a width is unknown": lambda _: [Proposes(widen("nowhere", 0))],
    "the model is written to": lambda _: [Asks(lambda c: c.structure.model.first.weight.data.zero_() is None or [])],
    "a follower raises half way": lambda _: [Proposes(GOOD), Follows(spoil)],
    "memory, of Python": short_of_memory(MemoryError()),
    "memory, of the CPU": short_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")),
    "memory, of an accelerator": short_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to")),
}


class Idle(growkit.Schedule):
    def due(self, moment):
        return False


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_goes_on_as_if_the_event_had_not_been_due(fault, optimizer, monkeypatch):
    module, growth = make(optimizer=optimizer), growing(when=Idle())
    expected = outcome(fit(module, growth, epochs=2), module, growth)
    growth = growing(*fault(monkeypatch), when=growkit.every(steps=5), on_error="skip")
    module = make(optimizer=optimizer)
    run = fit(module, growth, epochs=2)
    assert differences(expected, outcome(run, module, growth)) == []
    (failure,) = growth.failures
    assert has_four_parts(failure)
    assert growth.events == []


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_training_stops_with_everything_as_it_was(fault, monkeypatch):
    module, growth = make(optimizer="adam"), growing(when=Idle())
    expected = outcome(fit(module, growth, max_steps=5, epochs=None), module, growth)
    growth = growing(*fault(monkeypatch), when=growkit.every(steps=5))
    module = make(optimizer="adam")
    run = trainer(growth, epochs=2)
    seed_all(2)
    with pytest.raises(growkit.GrowkitError) as caught:
        run.fit(module, batches())
    assert has_four_parts(caught.value)
    # The batch before which the event was due has been taken: the epoch has begun, and its order is drawn.
    assert set(differences(expected, outcome(run, module, growth))) <= {"step", "random"}


def test_after_a_skipped_event_the_next_one_happens():
    turns = []

    def ask(context):
        turns.append(context.step)
        if len(turns) == 1:
            raise ZeroDivisionError("oh")
        return [GOOD]

    module, growth = make(), growing(Asks(ask), when=growkit.every(steps=3), on_error="skip")
    fit(module, growth, epochs=2)
    assert [entry.note["step"] for entry in growth.journal.entries] == [6]
    assert module.first.out_features == 5


def test_a_skipped_event_keeps_no_tensors():
    kept = []

    def ask(context):
        kept.append(weakref.ref(context.model))
        raise ZeroDivisionError("oh")

    growth = growing(Asks(ask), when=growkit.every(steps=3), on_error="skip")
    fit(make(), growth, epochs=1)
    gc.collect()
    assert len(growth.failures) == 1
    assert kept[0]() is None


def test_an_interruption_is_never_skipped():
    growth = growing(Asks(raising(KeyboardInterrupt())), when=growkit.every(steps=3), on_error="skip")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(make(), growth, epochs=1)
    assert growth.failures == []


@pytest.mark.parametrize("value", ["ignore", None, True])
def test_there_are_two_policies(value):
    with pytest.raises(ValueError, match="on_error"):
        growkit.Growth(on_error=value)


LITTLE_MEMORY = """
import resource, sys
sys.path[:0] = [{tests!r}, {here!r}]
import torch
torch.set_num_threads(1)
from fits import *
from growth.stubs import Asks, widen

def ask(context):
    # From now on there is room for a copy of the model, but not for the grown one.
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))
    return [growkit.Candidate(growkit.Widen("first", new=2**22))]

class Notices(pl.Callback):
    def on_train_batch_end(self, *_):
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

growth = growing(Asks(ask), when=growkit.every(steps=3), on_error="skip")
module = make(optimizer="adam")
run = fit(module, growth, Notices(), epochs=1)
print(run.global_step, module.first.out_features, growth.failures[0].what)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc, to know how much memory is in use")
def test_a_real_lack_of_memory(tmp_path):
    here = Path(__file__).parent
    script = LITTLE_MEMORY.format(tests=str(here.parent), here=str(here))
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=200, check=False
    )
    assert finished.stdout.splitlines()[-1:] == ["4 4 a growth event was called off: out of memory"], finished.stderr


# ------------------------------------------------------------------ files


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    """A limit on the size of files stands for the disk."""
    fit(make(), growing(), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0), epochs=1)
    path = tmp_path / "last.ckpt"
    whole = path.read_bytes()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, before[1]))
        saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
        with pytest.raises(growkit.CheckpointError, match="cannot write the checkpoint") as caught:
            fit(make(), growing(Proposes(GOOD)), saver, epochs=3, ckpt_path=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert has_four_parts(caught.value)
    assert path.read_bytes() == whole
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]
    growkit.load(path, make())


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.ckpt"
    WholeFiles().save_checkpoint({"a": torch.ones(3)}, path)
    whole = path.read_bytes()

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(growkit.CheckpointError, match="No space left"):
        WholeFiles().save_checkpoint({"a": torch.zeros(3)}, path)
    assert path.read_bytes() == whole
    assert [each.name for each in path.parent.iterdir()] == ["file.ckpt"]


def test_a_trainer_gets_its_own_way_of_saving_back(tmp_path):
    from lightning_fabric.plugins import TorchCheckpointIO

    class Mine(TorchCheckpointIO):
        pass

    for io, during in ((None, WholeFiles), (Mine(), Mine)):
        kinds = []

        class Looks(growkit.Plugin):
            @growkit.hookimpl
            def growkit_grown(self, model, kinds=kinds):
                kinds.append(type(model.trainer.strategy.checkpoint_io))

        options = {} if io is None else {"plugins": [io]}
        run = fit(make(), growing(Proposes(GOOD), Looks()), epochs=2, **options)
        assert kinds == [during]
        assert type(run.strategy.checkpoint_io) is (TorchCheckpointIO if io is None else Mine)
