"""Every first-party plugin that proposes edits passes the suite that ships to authors."""

from __future__ import annotations

import pytest

import growkit
from growkit.plugins import Plugins
from growkit.testing import PluginConformance
from growkit_plugins.baselines import Net2Net, RandomSplit, RandomUnits
from growkit_plugins.splitting import Splitting


class TestNet2Net(PluginConformance):
    def make(self):
        return Net2Net(fraction=0.5)


class TestNet2NetWithNoise(PluginConformance):
    def make(self):
        return Net2Net(fraction=0.5, noise=0.1)


class TestRandomUnits(PluginConformance):
    def make(self):
        return RandomUnits(fraction=0.5)


class TestRandomSplit(PluginConformance):
    def make(self):
        return RandomSplit(fraction=0.5)


class TestSplitting(PluginConformance):
    def make(self):
        return Splitting(fraction=1.0)


class TestExactSplitting(PluginConformance):
    def make(self):
        return Splitting(fraction=1.0, method="exact")


class TestSignedSplitting(PluginConformance):
    def make(self):
        return Splitting(fraction=1.0, mass=3.0)


def test_no_offered_class_is_left_out():
    tested = {type(suite().make()) for suite in PluginConformance.__subclasses__() if suite.__module__ == __name__}
    offered = {cls for _, classes in Plugins().call("growkit_plugin_classes") for cls in classes}
    proposing = {cls for cls in offered if hasattr(cls, "growkit_propose")}
    assert {cls for cls in proposing if cls.__module__.startswith("growkit_plugins")} == tested


class Draws(growkit.Plugin):
    """Breaks the rule that every draw comes from the context's generator."""

    @growkit.hookimpl
    def growkit_propose(self, context):
        import torch

        unit = int(torch.randint(1000, ()).item())
        widths = [width for width in context.structure.growable if not width.uniform]
        return [growkit.Candidate(growkit.Widen(width.name, [unit % width.size])) for width in widths]


class Meddles(growkit.Plugin):
    """Changes the live model while it proposes."""

    @growkit.hookimpl
    def growkit_propose(self, context):
        next(context.structure.model.parameters()).data.zero_()


@pytest.mark.parametrize(
    ("plugin", "test"),
    [(Draws, "test_the_same_seed_grows_alike"), (Meddles, "test_proposing_changes_nothing")],
)
def test_the_suite_finds_plugins_that_break_the_rules(plugin, test):
    suite = PluginConformance()
    suite.make = plugin
    with pytest.raises(AssertionError):
        getattr(suite, test)()
