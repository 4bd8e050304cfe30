"""Checkpoints of grown models: read by Lightning, by `growkit.load`, by plain torch; and what goes wrong with them."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from fits import Net, Validated, batches, fit, growing, make, plain, trainer
from growth.stubs import Proposes, has_four_parts, widen, works
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

import growkit
from growkit.lightning.checkpoint import STATE_KEY

# Lightning points out folders with files in them, folders that changed, and callbacks that are not there any more.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
]

GROWTH = (widen("first", 1, new=1), widen("second", 0))


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A module that grew twice, the file that holds it, and one from before it grew."""
    folder = tmp_path_factory.mktemp("grown")
    module = make(Validated)
    fit(module, growing(Proposes(*GROWTH)), ModelCheckpoint(folder, save_top_k=-1), epochs=3)
    return module.eval(), folder / "epoch=2-step=12.ckpt", folder / "epoch=0-step=4.ckpt"


@pytest.fixture
def checkpoint(grown):
    return torch.load(grown[1], weights_only=True)


def outputs(module: nn.Module) -> torch.Tensor:
    (batch,) = batches(shuffle=False, size=32)
    with torch.no_grad():
        return module.eval()(batch[0])


def test_load_gives_a_fresh_module_the_structure_and_the_weights(grown):
    module, path, _ = grown
    fresh = make(Validated, seed=5)
    assert growkit.load(path, fresh) is fresh
    assert plain(fresh.state_dict()) == plain(module.state_dict())
    assert torch.equal(outputs(fresh), outputs(module))
    assert (fresh.first.out_features, fresh.second.out_features, fresh.norm.num_features) == (8, 6, 8)


def test_load_takes_a_path_as_a_string_and_a_checkpoint_from_before_any_growth(grown):
    fresh = make(Validated, seed=5)
    growkit.load(str(grown[2]), fresh)
    assert plain(fresh.state_dict()) == plain(torch.load(grown[2], weights_only=True)["state_dict"])


def test_load_leaves_random_numbers_and_the_mode_alone(grown):
    fresh = make(Validated)
    before = torch.get_rng_state(), random.getstate()
    growkit.load(grown[1], fresh)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert fresh.training


def test_a_checkpoint_is_plain_data_and_tensors(checkpoint):
    """That `weights_only=True` could read it is half of this."""
    state = checkpoint["callbacks"][STATE_KEY]
    assert growkit.Journal.from_json(state["journal"]).edits[:2] == tuple(candidate.edit for candidate in GROWTH)


def test_a_checkpoint_holds_no_more_of_the_data_than_the_example(checkpoint):
    """Two samples are a view of a batch, and maybe of the whole data set; neither may be saved with them."""
    (example,) = checkpoint["callbacks"][STATE_KEY]["example"]
    assert example.shape == (2, 6)
    assert example.untyped_storage().nbytes() == example.numel() * example.element_size()


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_lightning_evaluates_a_checkpoint_with_a_fresh_module(verb, grown):
    module, path, _ = grown
    fresh = make(Validated, seed=5)
    (seen,) = getattr(trainer(growing()), verb)(fresh, batches(False), ckpt_path=path, verbose=False)
    (expected,) = getattr(trainer(), verb)(module, batches(False), verbose=False)
    assert seen == expected
    assert plain(fresh.state_dict()) == plain(module.state_dict())
    assert "on_load_checkpoint" not in vars(fresh)


def test_lightning_predicts_from_a_checkpoint_with_a_fresh_module(grown):
    module, path, _ = grown
    predictions = trainer(growing()).predict(make(Validated, seed=5), batches(False), ckpt_path=path)
    assert torch.allclose(torch.cat(predictions), outputs(module), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["best", "last", "path"])
def test_lightning_tests_a_checkpoint_right_after_the_fit_with_the_module_that_grew(name, tmp_path):
    """What everybody does: `trainer.fit(module); trainer.test(module, ckpt_path="best")`."""
    module, saver = make(Validated), ModelCheckpoint(tmp_path, save_last=True)
    run = fit(module, growing(Proposes(*GROWTH)), saver, epochs=3)
    expected = plain(module.state_dict())
    run.test(module, batches(False), ckpt_path=saver.best_model_path if name == "path" else name, verbose=False)
    assert plain(module.state_dict()) == expected


def test_an_earlier_structure_in_a_module_that_grew_on_is_restored_or_refused_clearly(grown):
    module, _, before_growth = grown
    module = copy.deepcopy(module)
    if works(lambda: trainer(growing()).validate(module, batches(False), ckpt_path=before_growth, verbose=False)):
        assert plain(module.state_dict()) == plain(torch.load(before_growth, weights_only=True)["state_dict"])


def test_load_into_a_module_that_has_grown_already_is_refused_clearly_or_works(grown):
    module = copy.deepcopy(grown[0])
    if works(lambda: growkit.load(grown[1], module)):
        assert torch.equal(outputs(module), outputs(grown[0]))


def test_evaluating_a_checkpoint_does_not_set_the_random_numbers_of_a_later_fit(tmp_path):
    fit(make(Validated), growing(), ModelCheckpoint(tmp_path), epochs=1)
    (path,) = tmp_path.glob("*.ckpt")
    growth, module, expected = growing(), make(Validated), make(Validated)
    trainer(growth).validate(make(Validated), batches(False), ckpt_path=path, verbose=False)
    fit(module, growth, epochs=1, seed=8)
    fit(expected, growing(), epochs=1, seed=8)
    assert plain(module.state_dict()) == plain(expected.state_dict())


def test_the_users_own_hook_sees_the_checkpoint_once(grown):
    class Listens(Validated):
        seen = 0

        def on_load_checkpoint(self, checkpoint):
            assert "state_dict" in checkpoint
            self.seen += 1

    fresh = make(Listens)
    trainer(growing()).validate(fresh, batches(False), ckpt_path=grown[1], verbose=False)
    assert fresh.seen == 1
    assert "on_load_checkpoint" not in vars(fresh)
    assert fresh.first.out_features == 8


def test_hyperparameters_do_not_hinder_load(tmp_path):
    class Saves(Net):
        def __init__(self, width=4, kind="tanh"):
            super().__init__()
            self.save_hyperparameters()

    module = make(Saves, 4, "relu")
    fit(module, growing(Proposes(*GROWTH)), ModelCheckpoint(tmp_path), epochs=2)
    (path,) = tmp_path.glob("*.ckpt")
    assert torch.equal(outputs(growkit.load(path, make(Saves))), outputs(module))


def test_a_checkpoint_with_weights_alone_can_be_loaded(tmp_path):
    """`save_weights_only` leaves out the state of callbacks; without the journal the file is worth nothing."""
    module = make()
    fit(module, growing(Proposes(*GROWTH)), ModelCheckpoint(tmp_path, save_weights_only=True), epochs=2)
    (path,) = tmp_path.glob("*.ckpt")
    assert torch.equal(outputs(growkit.load(path, make(seed=5))), outputs(module))


def test_an_example_of_keywords_survives_the_checkpoint(tmp_path):
    growth = growing(Proposes(*GROWTH), example=lambda batch: {"x": batch[0][:3]})
    module = make()
    fit(module, growth, ModelCheckpoint(tmp_path), epochs=2)
    (path,) = tmp_path.glob("*.ckpt")
    assert torch.equal(outputs(growkit.load(path, make(seed=5))), outputs(module))
    resumed = make()
    fit(resumed, growing(Proposes(*GROWTH)), ModelCheckpoint(tmp_path), ckpt_path=path, epochs=2)
    assert plain(resumed.state_dict()) == plain(module.state_dict())


# ---------------------------------------------------------------- what goes wrong


def refused(path, module: nn.Module | None = None) -> growkit.CheckpointError:
    with pytest.raises(growkit.CheckpointError) as caught:
        growkit.load(path, make(Validated) if module is None else module)
    assert has_four_parts(caught.value)
    assert len(str(caught.value)) < 4000
    return caught.value


def test_a_missing_file(tmp_path):
    assert "FileNotFoundError" in refused(tmp_path / "nothing.ckpt").seen


def test_a_folder(tmp_path):
    assert str(tmp_path) in refused(tmp_path).what


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"hello world, I am no checkpoint",
        b"\x80\x02}q\x00.",
        b"\x80\x04K\x01.",
        b"{}",
        bytes(range(256)) * 9,
    ],
    ids=["empty", "start of a zip", "text", "an empty dict of pickle", "a number of pickle", "json", "bytes"],
)
def test_a_file_that_is_something_else(content, tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    refused(path)


@settings(max_examples=40)
@given(share=st.floats(0, 0.999))
def test_a_file_that_was_cut_short(share, grown):
    content = grown[1].read_bytes()
    path = grown[1].with_name("cut.ckpt")
    path.write_bytes(content[: int(share * len(content))])
    refused(path)


@settings(max_examples=60)
@given(content=st.binary(max_size=200), head=st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]))
def test_any_bytes_give_one_kind_of_error(content, head, grown):
    path = grown[1].with_name("bytes.ckpt")
    path.write_bytes(head + content)
    refused(path)


def write(checkpoint, path):
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("content", [[1, 2], 7, {}, {"state_dict": {}}, {"callbacks": {}, "state_dict": {}}], ids=repr)
def test_a_file_of_torch_that_holds_something_else(content, tmp_path):
    refused(write(content, tmp_path / "x.ckpt"))


def test_a_checkpoint_of_a_run_without_growth(tmp_path):
    fit(make(), ModelCheckpoint(tmp_path), epochs=1)
    (path,) = tmp_path.glob("*.ckpt")
    assert "was not saved by a run with growkit.Growth" in refused(path, make()).what


class Wider(Net):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)


class Longer(Net):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(2, 2)


class Other(Net):
    """Other names."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 3)
        del self.first, self.norm, self.second, self.last

    def forward(self, x):
        return self.body(x)


class OtherInputs(Net):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(9, 4)


@pytest.mark.parametrize("kind", [Wider, Longer, Other, OtherInputs])
def test_another_module(kind, grown):
    """Whichever part fails first, structure or weights, the file and the module are named."""
    error = refused(grown[1], make(kind))
    assert "epoch=2" in str(error)
    assert kind.__name__ in str(error)


@pytest.mark.parametrize("kind", [Wider, Other, OtherInputs])
def test_another_module_in_a_fit(kind, grown):
    with pytest.raises((growkit.GrowkitError, RuntimeError)):
        fit(make(kind), growing(), ModelCheckpoint(), ckpt_path=grown[1])


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"format": 2}, "format 2"),
        ({"format": None}, "format None"),
        ({"journal": None}, None),
        ({"journal": "[]"}, None),
        ({"journal": '{"growkit_journal": 7, "entries": []}'}, "format 7"),
        ({"journal": '{"growkit_journal": 1, "entries": [{"edits": [{"edit": "fold"}], "note": {}}]}'}, "fold"),
        ({"journal": '{"growkit_journal": 1, "entries": [{"edits": [{"edit": "widen"}], "note": {}}]}'}, None),
        ({"journal": '{"growkit_journal": 1, "entries": [{"edits": 3, "note": {}}]}'}, None),
        ({"journal": '{"growkit_journal": 1, "entries": {"edits": 3}}'}, None),
        ({"journal": '{"growkit_journal": 1, "entries": [{"edits": [3], "note": {}}]}'}, None),
    ],
)
def test_a_state_that_this_growkit_cannot_read(change, seen, checkpoint, tmp_path):
    checkpoint["callbacks"][STATE_KEY].update(change)
    path = write(checkpoint, tmp_path / "x.ckpt")
    for use in (
        lambda: growkit.load(path, make(Validated)),
        lambda: fit(make(Validated), growing(), ModelCheckpoint(tmp_path), ckpt_path=path),
    ):
        with pytest.raises(growkit.GrowkitError) as caught:
            use()
        assert has_four_parts(caught.value)
        assert seen is None or seen in caught.value.seen


@pytest.mark.parametrize("part", ["format", "journal", "example", "random_state", "schedule", "plugins"])
def test_a_state_with_a_part_missing(part, checkpoint, tmp_path):
    del checkpoint["callbacks"][STATE_KEY][part]
    error = refused(write(checkpoint, tmp_path / "x.ckpt"))
    assert part in str(error)


@pytest.mark.parametrize("state", [3, "text", [1], {}], ids=repr)
def test_a_state_that_is_none(state, checkpoint, tmp_path):
    checkpoint["callbacks"][STATE_KEY] = state
    refused(write(checkpoint, tmp_path / "x.ckpt"))


def test_another_schedule_than_that_of_the_interrupted_run_works_or_is_refused_clearly(grown, tmp_path):
    growth, module = growing(when=growkit.on_plateau("val_loss")), make(Validated)
    resume = lambda: fit(module, growth, ModelCheckpoint(tmp_path), ckpt_path=grown[1], epochs=4)  # noqa: E731
    assert not works(resume) or module.first.out_features == 8
