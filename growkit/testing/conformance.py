"""What every plugin that proposes edits must do: a class of tests to inherit from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from growkit import randomness
from growkit.growth import Budget, Candidate, Context, Event, grow
from growkit.growth.event import propose
from growkit.hookspecs import hookimpl
from growkit.plugins import Plugin, Plugins
from growkit.structure import trace
from growkit.surgery import Journal
from growkit.testing.models import tiny_models

__all__ = ["PluginConformance"]


class PluginConformance:
    """Tests to inherit from in a test module; say how to make the plugin.

    For example:

        class TestHungry(PluginConformance):
            def make(self):
                return Hungry(units=2)

    Every test runs on all of `tiny_models`. A plugin may propose nothing for a model, but not for all of them.
    """

    def make(self) -> Plugin:
        """Return a new plugin."""
        raise NotImplementedError

    def test_proposing_changes_nothing(self) -> None:
        """The live model, its gradients and the global random state are as before."""
        for name, model, x in tiny_models():
            F.cross_entropy(model(x), _labels(x)).backward()  # type: ignore[no-untyped-call]
            before = [copy.deepcopy(model.state_dict()), copy.deepcopy(_gradients(model))]
            state = torch.get_rng_state()
            with randomness.isolated():
                propose(self._context(model, x), Plugins([self.make()]))
            assert _equal(before, [model.state_dict(), _gradients(model)]), name
            assert torch.equal(state, torch.get_rng_state()), name

    def test_something_is_proposed_for_some_model(self) -> None:
        """A plugin that never proposes anything conforms to nothing."""
        contexts = [self._context(model, x) for _, model, x in tiny_models()]
        assert any(propose(context, Plugins([self.make()])) for context in contexts)

    def test_edits_alone_preserve_the_function(self) -> None:
        """Whatever a plugin adds beyond the edit goes into offsets, which can be left out."""
        for name, model, x in tiny_models():
            context = self._context(model, x)
            for candidate in propose(context, Plugins([self.make()])):
                grown = copy.deepcopy(model)
                event = self._grow(grown, x, [candidate.edit])
                assert event is not None, name
                assert (grown.eval()(x) - model.eval()(x)).abs().max() <= 1e-10, name

    def test_the_same_seed_grows_alike(self) -> None:
        """Every random draw comes from `context.generator`."""
        for name, model, x in tiny_models():
            twins = [copy.deepcopy(model), copy.deepcopy(model)]
            for number, twin in enumerate(twins):
                with randomness.isolated(number):
                    grow(self._context(twin, x), Plugins([self.make()]), Budget())
            assert _equal(twins[0].state_dict(), twins[1].state_dict()), name

    def test_training_goes_on(self) -> None:
        """The optimizer holds exactly the parameters of the grown model, and steps them."""
        for name, model, x in tiny_models():
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(model(x), _labels(x)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                grow(self._context(model, x), Plugins([self.make()]), Budget(), optimizers=[optimizer])
            held = [id(p) for group in optimizer.param_groups for p in group["params"]]
            assert held == [id(p) for p in model.parameters()], name

    def _grow(self, model: nn.Module, x: Tensor, edits: list[Any]) -> Event | None:
        class Given(Plugin):
            @hookimpl
            def growkit_propose(self) -> Iterator[Candidate]:
                return (Candidate(edit) for edit in edits)

        return grow(self._context(model, x), Plugins([Given()]), Budget())

    def _context(self, model: nn.Module, x: Tensor) -> Context:
        return Context(
            trace(model, x),
            Journal(),
            example=(x,),
            step=0,
            epoch=0,
            seed=1,
            loss=lambda copy, batch: F.cross_entropy(copy(batch[0]), batch[1]),
            batches=lambda count: [(x, _labels(x))] * count,
        )


def _gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def _labels(x: Tensor) -> Tensor:
    return torch.arange(len(x)) % 2


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
