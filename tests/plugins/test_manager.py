"""The plugin manager: who is found, in which order they are asked, and whose fault it was."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from growth.stubs import Proposes, Selects, has_four_parts

import growkit
import growkit_plugins.splitting
import growkit_recipes
from growkit.plugins import Plugins


@pytest.fixture
def nothing_installed(monkeypatch):
    """Return a function that pretends that just these entry points are installed."""

    def install(*entries: Any) -> None:
        monkeypatch.setattr("growkit.plugins.entry_points", lambda group: [e for e in entries if group == "growkit"])

    install()
    return install


@dataclass
class Entry:
    """An entry point of a distribution "someone-elses 1.2"."""

    name: str
    plugin: object = None
    error: BaseException | None = None
    value: str = "someone.elses:plugin"
    dist: Any = field(default_factory=lambda: SimpleNamespace(name="someone-elses", version="1.2"))

    def load(self) -> object:
        if self.error is not None:
            raise self.error
        return self.plugin


def module_with(**functions: Any) -> types.ModuleType:
    module = types.ModuleType("module_plugin")
    vars(module).update(functions)
    return module


def refused(*plugins: object, match: str) -> str:
    with pytest.raises(growkit.PluginError, match=f"(?s){match}") as caught:
        Plugins(plugins)
    assert has_four_parts(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- what is refused


class Misspelt(growkit.Plugin):
    @growkit.hookimpl
    def growkit_proposes(self, context):
        return []


class Elsewhere(growkit.Plugin):
    @growkit.hookimpl
    def growkit_quantum_flux_capacitor(self):
        return []


class Undecorated(growkit.Plugin):
    def growkit_propose(self, context):
        return []


class HalfDecorated(growkit.Plugin):
    @growkit.hookimpl
    def growkit_propose(self, context):
        return []

    def growkit_grown(self, event):
        return None


class WrongArgument(growkit.Plugin):
    @growkit.hookimpl
    def growkit_propose(self, context, stucture):
        return []


class Bare(growkit.Plugin):
    """No hook at all."""


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        (
            Misspelt(),
            r"'Misspelt' \(this program\).*does not exist.*growkit_proposes.*did you mean 'growkit_propose'\?",
        ),
        (Elsewhere(), r"'Elsewhere'.*does not exist.*growkit_quantum_flux_capacitor.*growkit_propose.*rename"),
        (Undecorated(), r"'Undecorated'.*growkit_propose.*@growkit\.hookimpl"),
        (HalfDecorated(), r"'HalfDecorated'.*growkit_grown.*@growkit\.hookimpl"),
        (WrongArgument(), r"'WrongArgument'.*arguments.*stucture"),
        (Bare(), r"'Bare'.*no hook.*growkit_propose"),
        (Proposes, r"is a class.*register Proposes\(\) instead of Proposes"),
        ("splitting", r"no hook"),
        (None, r"no hook"),
    ],
    ids=lambda value: "" if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
@pytest.mark.usefixtures("nothing_installed")
def test_a_plugin_that_cannot_work_is_refused(plugin, says):
    refused(plugin, match=says)


@pytest.mark.usefixtures("nothing_installed")
def test_growth_refuses_too():
    with pytest.raises(growkit.PluginError, match="did you mean 'growkit_propose'"):
        growkit.Growth(plugins=[Misspelt()])


@pytest.mark.usefixtures("nothing_installed")
def test_the_same_instance_twice():
    plugin = Proposes(name="p")
    refused(plugin, plugin, match="'p'.*registered twice")


@pytest.mark.usefixtures("nothing_installed")
def test_two_instances_of_one_name_are_refused_and_the_advice_helps():
    refused(Selects(print), Selects(print), match="'selects'.*registered twice.*another `name`")
    assert {info.name for info in Plugins([Selects(print, "a"), Selects(print, "b")])} == {"a", "b"}


def test_the_name_of_an_installed_plugin_is_taken(nothing_installed):
    nothing_installed(Entry("mine", Proposes(name="other")))
    assert "someone-elses 1.2" in refused(Proposes(name="mine"), match="'mine'.*registered twice")


def test_an_installed_plugin_given_again_by_hand_is_refused(nothing_installed):
    plugin = Proposes(name="mine")
    nothing_installed(Entry("installed", plugin))
    refused(plugin, match="registered twice")


@pytest.mark.parametrize(
    "error",
    [ModuleNotFoundError("No module named 'gone'"), AttributeError("no such"), SyntaxError("bad"), OSError("io")],
)
def test_an_installed_plugin_that_cannot_be_imported(error, nothing_installed):
    nothing_installed(Entry("broken", error=error))
    text = refused(match=r"'broken' \(someone-elses 1\.2\) cannot be imported.*someone\.elses:plugin")
    assert f"{type(error).__name__}: {error}" in text


@pytest.mark.parametrize(
    ("plugin", "says"), [(Misspelt(), "does not exist"), (Misspelt, "is a class"), (module_with(), "no hook")]
)
def test_an_installed_plugin_that_cannot_work_is_named_with_its_distribution(plugin, says, nothing_installed):
    nothing_installed(Entry("theirs", plugin))
    refused(match=rf"'theirs' \(someone-elses 1\.2\).*{says}")


def test_an_entry_point_without_a_distribution(nothing_installed):
    nothing_installed(Entry("theirs", Proposes(), dist=None))
    assert [str(info) for info in Plugins()] == ["plugin 'theirs' (unknown distribution)"]


# ---------------------------------------------------------------- what is accepted


def test_the_plugins_of_this_distribution_are_found_through_their_entry_points():
    found = {info.name: info for info in Plugins()}
    assert {"baselines", "splitting", "recipes"} <= found.keys()
    assert found["splitting"].distribution == f"growkit {version('growkit')}"
    assert "growkit_plugin_classes" in found["splitting"].hooks
    assert found["recipes"].hooks == ("growkit_recipes",)


def test_what_the_first_party_plugins_offer():
    answers = Plugins().call("growkit_plugin_classes")
    classes = {kind.__name__: kind for _, kinds in answers for kind in kinds}
    assert {"Splitting", "Net2Net", "RandomUnits"} <= classes.keys()
    assert all(issubclass(kind, growkit.Plugin) for kind in classes.values())
    assert classes["Splitting"] is growkit_plugins.splitting.Splitting


def test_the_recipes_that_come_along_are_a_folder_with_yaml_files():
    (folder,) = (folder for name, folder in Plugins().call("growkit_recipes") if name == "recipes")
    assert any(entry.name.endswith(".yaml") for entry in folder.iterdir())
    assert growkit_recipes.growkit_recipes().is_dir()


@pytest.mark.usefixtures("nothing_installed")
def test_a_module_is_a_plugin():
    @growkit.hookimpl
    def growkit_propose(context):
        return [context]

    module = module_with(growkit_propose=growkit_propose, growkit_size=3, torch=torch)
    plugins = Plugins([module])
    (info,) = plugins
    assert info.hooks == ("growkit_propose",)
    assert [answer for _, answer in plugins.call("growkit_propose", context=1)] == [[1]]


@pytest.mark.usefixtures("nothing_installed")
def test_a_data_class_is_a_plugin():
    """Plugins are classes with plain keyword arguments; what is more natural than a dataclass?"""

    @dataclass
    class Fraction(growkit.Plugin):
        share: float = 0.5
        label: str = "a"

        @property
        def name(self) -> str:
            return self.label

        @growkit.hookimpl
        def growkit_propose(self, context):
            return [self.share]

    plugins = Plugins([Fraction(0.25), Fraction(0.75, "b")])
    assert plugins.call("growkit_propose", context=None) == [("a", [0.25]), ("b", [0.75])]


# ---------------------------------------------------------------- calls


class Answers(growkit.Plugin):
    def __init__(self, name: str, answer: Any, log: list) -> None:
        self._name, self.answer, self.log = name, answer, log

    @property
    def name(self) -> str:
        return self._name

    def _reply(self) -> Any:
        self.log.append(self._name)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    @growkit.hookimpl
    def growkit_propose(self):
        return self._reply()

    @growkit.hookimpl
    def growkit_select(self):
        return self._reply()


def answering(**answers: Any) -> tuple[list[Answers], list[str]]:
    log: list[str] = []
    return [Answers(name, answer, log) for name, answer in answers.items()], log


def test_plugins_are_asked_in_the_order_given_then_the_installed_ones(nothing_installed):
    log: list[str] = []
    nothing_installed(Entry("late", Answers("late", [9], log)))
    plugins = Plugins([Answers(name, [number], log) for number, name in enumerate("zab")])
    assert plugins.call("growkit_propose", context=None) == [("z", [0]), ("a", [1]), ("b", [2]), ("late", [9])]
    assert log == ["z", "a", "b", "late"]


@pytest.mark.usefixtures("nothing_installed")
def test_answers_of_none_are_left_out_and_empty_ones_are_not():
    given, _ = answering(a=None, b=[], c=[1])
    assert Plugins(given).call("growkit_propose", context=None) == [("b", []), ("c", [1])]


@pytest.mark.usefixtures("nothing_installed")
def test_the_first_answer_to_a_first_result_hook_ends_the_asking():
    given, log = answering(a=None, b=[], c=[1])
    plugins = Plugins(given)
    arguments = {"candidates": [], "budget": None, "context": None}
    assert plugins.call("growkit_select", **arguments) == [("b", [])]
    assert plugins.first("growkit_select", **arguments) == []
    assert log == ["a", "b"] * 2


@pytest.mark.usefixtures("nothing_installed")
def test_nobody_to_ask():
    plugins = Plugins()
    assert plugins.call("growkit_propose", context=None) == []
    assert plugins.first("growkit_select", candidates=[], budget=None, context=None) is None


@pytest.mark.parametrize("hook", ["growkit_propose", "growkit_select"])
def test_an_exception_names_plugin_hook_and_distribution_and_ends_the_asking(hook, nothing_installed):
    given, log = answering(a=[], bad=ZeroDivisionError("oh no"), c=[])
    given[0].answer = None
    nothing_installed(Entry("bad", given[1]))
    arguments = {"candidates": [], "budget": None} if hook == "growkit_select" else {}
    with pytest.raises(growkit.PluginError, match=rf"plugin 'bad' \(someone-elses 1\.2\) failed in {hook}") as caught:
        Plugins([given[0]]).call(hook, context=None, **arguments)
    assert has_four_parts(caught.value)
    assert "ZeroDivisionError: oh no" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert log == ["a", "bad"]


@pytest.mark.usefixtures("nothing_installed")
def test_an_interruption_is_no_failure_of_a_plugin():
    given, _ = answering(a=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        Plugins(given).call("growkit_propose", context=None)


@pytest.mark.usefixtures("nothing_installed")
def test_a_hook_takes_only_the_arguments_it_names():
    class Modest(growkit.Plugin):
        @growkit.hookimpl
        def growkit_select(self, budget):
            return [budget]

    assert Plugins([Modest()]).first("growkit_select", candidates=[1], budget=2, context=3) == [2]


@pytest.mark.usefixtures("nothing_installed")
def test_managers_do_not_know_of_each_other():
    plugin = Proposes(name="p")
    one, other = Plugins([plugin]), Plugins()
    assert [info.name for info in one] == ["p"]
    assert [info.name for info in other] == []
    assert [info.name for info in Plugins([plugin])] == ["p"]


@pytest.mark.usefixtures("nothing_installed")
def test_a_description_for_messages():
    plugins = Plugins([Proposes(name="p")])
    assert plugins.describe("p") == "plugin 'p' (this program)"
