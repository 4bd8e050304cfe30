"""A damaged or hostile checkpoint is refused with one message and leaves everything alone, or is harmless."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

import pytest
from fits import Net, fit, growing, make, plain
from growth.stubs import Asks, has_four_parts, widen
from pytorch_lightning.callbacks import ModelCheckpoint
from tampering import SENTINEL, TAMPERINGS, members, read, tampered, zipped

import growkit
from growkit.lightning import checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
    pytest.mark.filterwarnings("ignore:Sparse"),
]

SAMPLE = 10  # one in so many is tried by default
MEMORY = 300_000  # kB: what all of them together may add to the peak


def cases(*kinds: str, sample: int = SAMPLE) -> list[Any]:
    return [
        pytest.param(kind, seed, id=f"{kind}-{seed}", marks=() if seed % sample == 0 else pytest.mark.slow)
        for kind in kinds
        for seed in range(TAMPERINGS[kind][1])
    ]


def ask(context):
    if context.epoch == 2:
        return [growkit.Candidate(growkit.Deepen("second", "linear", context.structure["second"].size, hidden=3))]
    return [widen("first", 1, new=1), widen("second", 0)]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> bytes:
    """A checkpoint of a module that was widened, deepened, and widened again."""
    folder = tmp_path_factory.mktemp("original")
    fit(make(optimizer="adam"), growing(Asks(ask)), ModelCheckpoint(folder), epochs=4)
    (path,) = folder.glob("*.ckpt")
    return path.read_bytes()


@pytest.fixture(scope="module", autouse=True)
def memory(original):
    """No case may fill the memory, not even for a moment."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hostile.ckpt"


ACCIDENTS = ("cut", "flipped", "spliced")  # which must be noticed if they matter


def holds(module: Net, content: bytes) -> bool:
    """Whether a module has exactly the weights of a checkpoint."""
    weights = {name: value for name, value in read(content)["state_dict"].items() if " " not in name}
    own = module.state_dict()
    return plain({name: value.to_dense().to(own[name].dtype) for name, value in weights.items()}) == plain(own)


def refusal(action: Callable[[], Any]) -> growkit.GrowkitError | None:
    """The error of an action, which must be clear, or None."""
    try:
        action()
    except growkit.GrowkitError as error:
        refused = error
    else:
        return None
    assert has_four_parts(refused)
    assert len(str(refused)) < 4000
    assert str(refused).count("\n") == 3
    return refused


def test_the_original_loads(original, path):
    path.write_bytes(original)
    assert holds(growkit.load(path, make(optimizer="adam")), original)


def test_records_that_unpack_to_more_than_the_file(original, path):
    path.write_bytes(zipped([*members(original), ("archive/data/999", bytes(10**6))], ZIP_DEFLATED))
    assert "unpack to 1,0" in refusal(lambda: growkit.load(path, make(optimizer="adam"))).seen


@pytest.mark.parametrize(("kind", "seed"), cases(*TAMPERINGS))
def test_load_refuses_and_leaves_the_module_alone_or_loads_what_is_there(kind, seed, original, path, unchanged):
    path.write_bytes(tampered(original, kind, seed))
    module = make(optimizer="adam")
    if refusal(lambda: growkit.load(path, make(optimizer="adam"))):
        with unchanged(module), pytest.raises(growkit.CheckpointError):
            growkit.load(path, module)
    else:
        assert holds(growkit.load(path, module), original if kind in ACCIDENTS else path.read_bytes())
    assert not Path(SENTINEL).exists()


def schedule_of(content: bytes) -> str:
    state = read(content)["callbacks"][checkpoint.STATE_KEY]
    schedule = state.get("schedule") if isinstance(state, dict) else None
    return repr(schedule) if isinstance(schedule, dict) else ""


def state_of(module: Net) -> Any:
    """What a refused checkpoint must not change; Lightning leaves notes of its own in any module."""
    submodules = {name: {**vars(each)} for name, each in module.named_modules() if name}
    return plain(module.state_dict()), repr(module), repr(submodules), "_growkit_journal" in vars(module)


@pytest.mark.parametrize(("kind", "seed"), cases("state", "weights", "journal", "journal text"))
def test_a_fit_refuses_to_resume_and_leaves_the_module_alone_or_goes_on(kind, seed, original, path):
    path.write_bytes(tampered(original, kind, seed))
    if refusal(lambda: checkpoint.read(path)):
        return  # Lightning refuses it in its own words
    if schedule_of(path.read_bytes()) not in ("", schedule_of(original)):
        return  # Lightning hands the schedule its state after the weights
    module = make(optimizer="adam")
    before = state_of(module)
    if refusal(lambda: fit(module, growing(Asks(ask)), ckpt_path=path, epochs=5)):
        assert state_of(module) == before
    else:
        assert len(growkit.Journal.from_json(vars(module)["_growkit_journal"])) >= 4
