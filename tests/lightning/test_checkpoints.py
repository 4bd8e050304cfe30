"""Checkpoints of grown models: read by Lightning, by `growkit.load`, by plain torch; and what goes wrong with them."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from fits import Net, Validated, batches, fit, growing, make, plain, trainer
from growth.stubs import Proposes, has_four_parts, widen, works
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

import growkit
from growkit import randomness
from growkit.lightning.checkpoint import STATE_KEY, check_plain, pack

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


# ---------------------------------------------------------------- checkpoints of earlier versions

# Saved at commit b316213, the last with format 1, by
#     fit(make(), growing(Proposes(*GROWTH)), ModelCheckpoint(folder, filename="format-1"), epochs=3)
FORMAT_1 = Path(__file__).with_name("format-1.ckpt")


def test_a_checkpoint_of_format_1_loads():
    saved = torch.load(FORMAT_1, weights_only=True)
    assert saved["callbacks"][STATE_KEY]["format"] == 1
    fresh = growkit.load(FORMAT_1, make(seed=5))
    assert plain(fresh.state_dict()) == plain(saved["state_dict"])
    assert (fresh.first.out_features, fresh.second.out_features) == (8, 6)


def test_training_resumes_from_a_checkpoint_of_format_1():
    resumed, growth = make(), growing(Proposes(*GROWTH))
    run = fit(resumed, growth, ckpt_path=FORMAT_1, epochs=5)
    assert (run.global_step, run.current_epoch) == (20, 5)
    assert [entry.note["step"] for entry in growth.journal.entries] == [4, 8, 12, 16]
    assert (resumed.first.out_features, resumed.second.out_features) == (12, 8)
    whole = make()
    fit(whole, growing(Proposes(*GROWTH)), epochs=5)
    assert plain(resumed.state_dict()) == plain(whole.state_dict())


# ---------------------------------------------------------------- averages of the weights


class Averages(pl.Callback):
    """Saves and loads as Lightning's `WeightAveraging` does; the average is twice the weights."""

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["current_model_state"] = weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: 2 * value for name, value in weights.items()}

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        assert checkpoint["state_dict"].keys() == pl_module.state_dict().keys()
        pl_module.load_state_dict(checkpoint["current_model_state"])


@pytest.fixture
def averaged(tmp_path):
    module = make(Validated)
    fit(module, growing(Proposes(*GROWTH)), Averages(), ModelCheckpoint(tmp_path), epochs=3)
    return module, next(tmp_path.glob("*.ckpt"))


def test_load_takes_the_average(averaged):
    module, path = averaged
    fresh = growkit.load(path, make(Validated))
    assert plain(fresh.state_dict()) == plain({name: 2 * value for name, value in module.state_dict().items()})


def test_training_resumes_with_the_weights_beside_the_average(averaged):
    module, path = averaged
    resumed = make(Validated)
    fit(resumed, growing(Proposes(*GROWTH)), Averages(), ckpt_path=path, epochs=3)
    assert plain(resumed.state_dict()) == plain(module.state_dict())


def test_weights_beside_the_average_that_do_not_fit(averaged):
    path = averaged[1]
    saved = torch.load(path, weights_only=True)
    saved["current_model_state"]["first.weight"] = torch.zeros(2, 2)
    torch.save(saved, path)
    with pytest.raises(growkit.CheckpointError, match=r"'first.weight' of shape \[2, 2\]"):
        trainer(growing(), Averages()).validate(make(Validated), batches(False), ckpt_path=path, verbose=False)


# ---------------------------------------------------------------- without growkit


def plainly(path, module):
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])


WITHOUT_GROWKIT = {
    "load_from_checkpoint": lambda path: Validated.load_from_checkpoint(path),
    "fit": lambda path: fit(make(Validated), ckpt_path=path, epochs=5),
    "test": lambda path: trainer().test(make(Validated), batches(False), ckpt_path=path, verbose=False),
    "load_state_dict": lambda path: plainly(path, make(Validated)),
}


@pytest.mark.parametrize("way", WITHOUT_GROWKIT)
def test_who_loads_a_grown_model_without_growkit_reads_what_to_do(way, grown):
    with pytest.raises(RuntimeError, match=r"Unexpected key.*growkit\.load\(path, module\).*`growkit export`"):
        WITHOUT_GROWKIT[way](grown[1])


@pytest.mark.parametrize("way", WITHOUT_GROWKIT)
def test_a_model_that_has_not_grown_needs_no_growkit(way, grown):
    WITHOUT_GROWKIT[way](grown[2])


def test_the_message_is_in_averages_and_in_weights_alone_too(averaged, tmp_path):
    with pytest.raises(RuntimeError, match="growkit export"):
        plainly(averaged[1], make(Validated))
    fit(make(), growing(Proposes(*GROWTH)), ModelCheckpoint(tmp_path / "alone", save_weights_only=True), epochs=2)
    with pytest.raises(RuntimeError, match="growkit export"):
        plainly(next((tmp_path / "alone").iterdir()), make())


def test_the_users_own_hooks_see_no_message(tmp_path):
    class Looks(Validated):
        def on_save_checkpoint(self, checkpoint):
            assert checkpoint["state_dict"].keys() == self.state_dict().keys()

        def on_load_checkpoint(self, checkpoint):
            assert checkpoint["state_dict"].keys() == self.state_dict().keys()

    fit(make(Looks), growing(Proposes(*GROWTH)), ModelCheckpoint(tmp_path), epochs=2)
    (path,) = tmp_path.glob("*.ckpt")
    fit(make(Looks), growing(), ckpt_path=path, epochs=3)


# ---------------------------------------------------------------- examples


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


class Own:
    pass


@pytest.mark.parametrize(
    "example",
    [(torch.ones(2), 1, 0.5, None, "a", True), {"x": {"y": [torch.ones(2)]}}, (), ({1, 2}, b"b", torch.float32)],
    ids=repr,
)
def test_plain_examples(example):
    check_plain(example)


@pytest.mark.parametrize("wrap", [lambda x: (x,), lambda x: {"a": [1, (2, {"b": x})]}, lambda x: (Pair(1, x),)])
def test_an_example_that_is_not_plain_names_the_class(wrap):
    with pytest.raises(growkit.CheckpointError) as caught:
        check_plain(wrap(Own()))
    assert has_four_parts(caught.value)
    assert "test_checkpoints.Own" in caught.value.seen or "test_checkpoints.Pair" in caught.value.seen


def test_a_class_that_torch_is_told_to_trust_is_plain():
    with torch.serialization.safe_globals([Own]):
        check_plain((Own(),))


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
    module = make(kind)
    before = plain(module.state_dict()), repr(module)
    with pytest.raises(growkit.CheckpointError) as caught:
        fit(module, growing(), ModelCheckpoint(), ckpt_path=grown[1])
    assert has_four_parts(caught.value)
    assert (plain(module.state_dict()), repr(module)) == before


@pytest.mark.parametrize("kind", [Wider, Longer, Other, OtherInputs])
def test_another_module_is_left_as_it_was(kind, grown, unchanged):
    module = make(kind)
    with unchanged(module):
        refused(grown[1], module)


def test_the_first_differences_are_named_and_the_others_counted(checkpoint, tmp_path, unchanged):
    weights = checkpoint["state_dict"]
    del weights["first.bias"]
    weights["last.weight"], weights["second.bias"] = torch.zeros(3, 9), torch.zeros(6, dtype=torch.complex64)
    weights["more.weight"] = weights["norm.bias"] = torch.zeros(1)
    module = make(Validated)
    with unchanged(module):
        error = refused(write(checkpoint, tmp_path / "x.ckpt"), module)
    assert "the weights of the checkpoint do not fit Validated" in error.what
    assert error.seen == (
        "no 'first.bias', 'last.weight' of shape [3, 9] instead of [3, 6], "
        "'more.weight', which the module lacks and 2 more differences"
    )


def test_a_module_that_loads_loosely_may_lack_names_but_not_shapes(checkpoint, tmp_path, unchanged):
    class Loose(Validated):
        strict_loading = False

    del checkpoint["state_dict"]["norm.bias"]
    checkpoint["state_dict"]["more"] = torch.zeros(1)
    path = write(checkpoint, tmp_path / "x.ckpt")
    assert growkit.load(path, make(Loose)).first.out_features == 8
    fit(make(Loose), growing(Proposes(*GROWTH)), ckpt_path=path, epochs=4)
    checkpoint["state_dict"]["last.bias"] = torch.zeros(4)
    path = write(checkpoint, tmp_path / "x.ckpt")
    module = make(Loose)
    with unchanged(module):
        assert "'last.bias' of shape [4] instead of [3]" in refused(path, module).seen
    with pytest.raises(growkit.CheckpointError, match=r"'last\.bias' of shape"):
        fit(make(Loose), growing(), ckpt_path=path, epochs=4)


class Observer(nn.Module):
    """As in quantisation: its buffer has no size before the first batch, so it loads in a way of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        self.seen = torch.zeros(state_dict[prefix + "seen"].shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Observed(Validated):
    def __init__(self):
        super().__init__()
        self.observer = Observer()


def test_modules_that_load_in_ways_of_their_own_are_asked(tmp_path):
    module = make(Observed)
    module.observer.seen = torch.ones(3)
    fit(module, growing(Proposes(*GROWTH)), ModelCheckpoint(tmp_path), epochs=3)
    (path,) = tmp_path.glob("*.ckpt")
    assert growkit.load(path, make(Observed)).observer.seen.tolist() == [1, 1, 1]
    resumed = make(Observed)
    fit(resumed, growing(Proposes(*GROWTH)), ckpt_path=path, epochs=4)
    assert resumed.observer.seen.tolist() == [1, 1, 1]


def test_a_module_that_refuses_in_the_middle_is_as_it_was(tmp_path, unchanged):
    class Refuses(Validated):
        def get_extra_state(self):
            return 1

        def set_extra_state(self, state):
            raise ArithmeticError("not this one")

    fit(make(Refuses), growing(Proposes(*GROWTH)), ModelCheckpoint(tmp_path), epochs=3)
    (path,) = tmp_path.glob("*.ckpt")
    module = make(Refuses)
    with unchanged(module):
        assert "ArithmeticError: not this one" in refused(path, module).seen


def by_hand(model: nn.Module, path: Path, *edits: growkit.Edit) -> Path:
    """A checkpoint of a model whose edits were made one after the other."""
    example, journal = (torch.randn(2, 6),), growkit.Journal()
    for edit in edits:
        journal.append(growkit.apply(model, edit, example=example, exact=False))
    fixed = dict(schedule={}, plugins={}, layout=[], grown_at=-1, random_states=[randomness.capture()])
    state = pack(journal=journal, example=example, **fixed)
    return write({"state_dict": model.state_dict(), "callbacks": {STATE_KEY: state}}, path)


def test_a_model_may_have_been_larger_in_between(tmp_path):
    grow = growkit.Widen("second", copies=[0] * 50)
    shrink = growkit.Narrow("second", range(1, 54))
    path = by_hand(make(), tmp_path / "x.ckpt", growkit.Widen("first", (1,)), grow, shrink)
    assert growkit.load(path, make(seed=3)).second.out_features == 1


def test_a_journal_whose_shapes_exceed_the_weights(tmp_path, unchanged):
    """The shapes it notes are as large, and agree; the weights beside it are small."""
    path = by_hand(make(), tmp_path / "x.ckpt", growkit.Widen("first", new=1), growkit.Widen("second", new=1))
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["callbacks"][STATE_KEY]
    state["journal"] = state["journal"].replace('"new": 1', '"new": 100000').replace("\n     5", "\n     100004")
    module = make()
    with unchanged(module):
        assert "larger than it may be" in refused(write(checkpoint, path), module).what


def test_a_checkpoint_without_checksums(checkpoint, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = write(checkpoint, tmp_path / "x.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    growkit.load(path, make(Validated))


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"example": (torch.zeros(1).expand(10**9),)}, "'example'"),
        ({"example": None}, "a journal without an example"),
        ({"example": {1: torch.zeros(2, 6)}}, "'example'"),
        ({"random_states": []}, "'random_states'"),
        ({"random_states": [{}]}, "'random_states'"),
        ({"schedule": [1]}, "'schedule'"),
        ({"plugins": {"proposes": 1}}, "'plugins'"),
        ({"layout": [["first.weight"]]}, "'layout'"),
        ({"grown_at": 1.5}, "'grown_at'"),
        ({"metrics": {"loss": torch.zeros(2)}}, "'metrics'"),
        ({"gradients": {"first.weight": 1}}, "'gradients'"),
        ({"pending": {"epoch": 1}}, "'pending'"),
        ({"rewarm": {"steps": 0, "start": 0.0, "taken": [1]}}, "'rewarm'"),
        ({"rewarm": {"steps": 4, "start": 0.0, "taken": [-1]}}, "'rewarm'"),
    ],
)
def test_a_part_that_is_damaged(change, seen, checkpoint, tmp_path, unchanged):
    checkpoint["callbacks"][STATE_KEY].update(change)
    module = make(Validated)
    with unchanged(module):
        assert seen in str(refused(write(checkpoint, tmp_path / "x.ckpt"), module))


@pytest.mark.parametrize(("place", "value"), [("numpy", 2**40), ("numpy", -1), ("torch", torch.zeros(3))])
def test_a_random_state_that_generators_would_not_take(place, value, checkpoint, tmp_path):
    """NumPy takes any position, and then reads there."""
    (state,) = checkpoint["callbacks"][STATE_KEY]["random_states"]
    if place == "numpy":
        state[place][2] = value
    else:
        state[place] = value
    assert "'random_states'" in refused(write(checkpoint, tmp_path / "x.ckpt")).what


@pytest.mark.parametrize(
    "gradients", [{"first.weight": torch.zeros(4, 6)}, {"nothing": torch.zeros(1)}], ids=["shape", "name"]
)
def test_gradients_that_do_not_fit(gradients, checkpoint, tmp_path):
    checkpoint["callbacks"][STATE_KEY]["gradients"] = gradients
    path = write(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(growkit.CheckpointError, match="a gradient of shape"):
        fit(make(Validated), growing(), ckpt_path=path, epochs=4)


def test_a_later_format_says_so(checkpoint, tmp_path):
    checkpoint["callbacks"][STATE_KEY]["format"] = 3
    error = refused(write(checkpoint, tmp_path / "x.ckpt"))
    assert "format 3" in error.seen
    assert "a later growkit wrote it" in error.advice


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"format": 3}, "format 3"),
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


@pytest.mark.parametrize("part", ["format", "journal", "example", "random_states", "schedule", "plugins"])
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
