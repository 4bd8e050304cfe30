"""Compiled modules: after every event the code is compiled anew, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from fits import Net, Validated, differences, fit, growing, make, outcome, plain
from growth.stubs import Asks
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.utilities.compile import from_compiled
from torch import nn
from torch._dynamo.exc import FailOnRecompileLimitHit

import growkit
from growkit.growth.private import private_copy
from growkit.lightning.loss import training_loss
from growkit_plugins.baselines import Net2Net
from growkit_plugins.splitting import Splitting

pytestmark = pytest.mark.filterwarnings(
    *(
        "ignore:The dirpath has changed",
        "ignore:Checkpoint directory .* exists",
        "ignore:You defined a `validation_step`",
    ),
    "ignore:.torch.jit.script",  # of torch's own, which it imports with its compiler
    "ignore:The .grad attribute of a Tensor that is not a leaf",  # of torch's, when it compiles a loss function
)

EVENTS = 10  # more than torch compiles one piece of code


class Counts:
    """A backend that compiles to what it was given, counts graphs, and counts their runs."""

    def __init__(self) -> None:
        self.graphs = self.runs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*arguments: Any) -> Any:
            self.runs += 1
            return graph.forward(*arguments)

        return run


backend = Counts()


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    backend.__init__()
    yield
    torch.compiler.reset()


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(F.softplus(self.first(x)))


class Plain(Validated):
    """Logs nothing in its training step, which Lightning cannot do in compiled code."""

    def __init__(self) -> None:
        super().__init__()
        del self.first, self.norm, self.dropout, self.second, self.last
        self.net = Body()
        self.double()

    def forward(self, x):
        return self.net(x.double())

    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class Submodule(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend=backend)


class InPlace(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.net.compile(backend=backend)


class Method(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.forward = torch.compile(self.forward, backend=backend)


class Decorated(Plain):
    @torch.compile(backend=backend)
    def forward(self, x):
        return self.net(x.double())


class Loss(Plain):
    """Nothing of the module is compiled, but a function that it calls with its outputs and weights."""

    def loss(self, batch):
        return penalised(self(batch[0]), batch[1], self.net.first.weight)


@torch.compile(backend=backend)
def penalised(outputs, labels, weight):
    return F.cross_entropy(outputs, labels) + 0.01 * weight.square().mean()


class Uncompiled(Loss):
    def loss(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1]) + 0.01 * self.net.first.weight.square().mean()


def whole() -> pl.LightningModule:
    """What `Trainer.fit(torch.compile(module))` makes of a module."""
    return from_compiled(torch.compile(make(Plain), backend=backend))


KINDS: dict[str, Callable[[], Any]] = {
    "the module": whole,
    "a submodule": lambda: make(Submodule),
    "in place": lambda: make(InPlace),
    "a method": lambda: make(Method),
    "decorated": lambda: make(Decorated),
    "a function": lambda: make(Loss),
}

SOME = [pytest.param(kind, marks=[] if kind == "a submodule" else pytest.mark.slow) for kind in KINDS]


class Runs(pl.Callback):
    """How often compiled code ran in each training batch."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._before = backend.runs

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.runs.append(backend.runs - self._before)


def grow_often(module: Net, *callbacks: pl.Callback) -> growkit.Growth:
    growth = growing(Net2Net(0.1, noise=0.05), when=growkit.every(steps=1))
    fit(module, growth, *callbacks, max_steps=EVENTS + 1)
    assert len(growth.journal) == EVENTS
    return growth


@pytest.mark.parametrize("kind", KINDS)
def test_after_many_events_the_code_still_runs_compiled_and_the_result_is_that_of_uncompiled_code(kind):
    module, runs = KINDS[kind](), Runs()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        growth = grow_often(module, runs)
    assert all(runs.runs)
    assert growth.recompilations == EVENTS
    assert backend.graphs > EVENTS
    uncompiled = make(Uncompiled if kind == "a function" else Plain)
    grow_often(uncompiled)
    for weight, expected in zip(module.parameters(), uncompiled.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["a submodule", "decorated"])
def test_were_the_code_not_dropped_it_would_run_uncompiled_after_some_events(kind, monkeypatch):
    """The reason for dropping it; should this fail, a later torch can do without."""
    monkeypatch.setattr("growkit.lightning.callback.drop_compiled", lambda: False)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True), pytest.raises(FailOnRecompileLimitHit):
        grow_often(KINDS[kind]())


def test_without_compiled_code_nothing_is_dropped():
    assert grow_often(make(Plain)).recompilations == 0


def test_the_module_may_be_given_to_fit_as_torch_returns_it():
    growth = growing(Net2Net(0.1))
    module = make(Plain)
    fit(torch.compile(module, backend=backend), growth)
    assert growth.recompilations == len(growth.journal) == 3
    assert module.net.first.out_features == 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_private_copy_computes_with_its_own_weights(kind):
    module, inputs = KINDS[kind](), torch.randn(2, 6)
    private = private_copy(module)
    labels = torch.zeros(2, dtype=torch.int64)
    before = module(inputs)
    with torch.no_grad():
        for parameter in private.parameters():
            parameter.zero_()
    with torch.compiler.set_stance("force_eager"):
        private.loss((inputs, labels)).backward()
        assert private(inputs).abs().max() == 0
        training_loss(pl.Trainer(logger=False, accelerator="cpu"), private, (inputs, labels))
    assert all(parameter.grad is None for parameter in module.parameters())
    assert any(parameter.grad is not None for parameter in private.parameters())
    assert torch.equal(module(inputs), before)


@pytest.mark.parametrize("kind", SOME)
def test_what_growth_computes_is_not_compiled(kind):
    """Its models live for one event, and compiling takes longer."""

    def look(context):
        graphs = backend.graphs, backend.runs
        (batch,) = context.batches(1)
        context.loss(batch).backward()
        assert (backend.graphs, backend.runs) == graphs
        seen.append(all(parameter.grad is not None for parameter in context.model.parameters()))

    seen: list[bool] = []
    fit(KINDS[kind](), growing(Asks(look), Net2Net(0.1)))
    assert seen == [True] * 3


@pytest.mark.parametrize("kind", SOME)
def test_a_resumed_run_equals_the_uninterrupted_one(kind, tmp_path):
    def run(part: str, ckpt_path: Any = None) -> dict[str, Any]:
        module, growth = KINDS[kind](), growing(Splitting(0.3, step=0.05))
        saver = ModelCheckpoint(tmp_path / part, every_n_train_steps=10, save_top_k=-1)
        seed = 2 if ckpt_path is None else 77
        return outcome(fit(module, growth, saver, ckpt_path=ckpt_path, seed=seed), module, growth)

    whole = run("whole")
    (path,) = (tmp_path / "whole").glob("*step=10.ckpt")
    assert differences(whole, run("parts", path)) == []


def test_averages_of_a_compiled_module_follow():
    averaging, module = WeightAveraging(), whole()
    fit(module, growing(Net2Net(0.1)), averaging, epochs=2)
    assert module.net.first.out_features == 4
    assert plain(averaging._average_model.module.state_dict()) == plain(module.state_dict())


@pytest.mark.gpu
@pytest.mark.filterwarnings("default::UserWarning")  # inductor has some of its own
@pytest.mark.skipif(not torch.cuda.is_available(), reason="inductor needs a compiler, which GPU machines have")
@pytest.mark.parametrize("kind", [Plain, Submodule, InPlace])
def test_inductor_compiles_after_each_of_many_events(kind, monkeypatch):
    monkeypatch.setattr(f"{__name__}.backend", "inductor")
    module, growth = make(kind), growing(Net2Net(0.1), when=growkit.every(steps=1))
    counters = torch._dynamo.utils.counters
    counters.clear()
    given = torch.compile(module) if kind is Plain else module
    fit(given, growth, accelerator="cuda", devices=1, epochs=3)
    assert len(growth.journal) == growth.recompilations == 11
    assert counters["frames"]["ok"] == counters["frames"]["total"] >= 12
    assert counters["stats"]["unique_graphs"] >= 12
