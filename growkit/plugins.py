"""Plugins: one pluggy manager a run, never a global, and errors that say whose fault it was."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import Distribution, entry_points
from typing import Any

import pluggy

from growkit import hookspecs
from growkit.errors import GrowkitError, PluginError, suggestion

__all__ = ["Plugin", "PluginInfo", "Plugins", "Watched", "installed"]

_PREFIX = hookspecs.PROJECT + "_"
_HOOKS = [name for name in vars(hookspecs) if name.startswith(_PREFIX)]


class Plugin:
    """Base of plugins that recipes can name. Nothing is required of a subclass but at least one hook.

    A plugin whose choices depend on what it saw earlier keeps that in `state_dict`, so that a resumed run grows
    like an uninterrupted one.
    """

    @property
    def name(self) -> str:
        """How messages, journals and checkpoints refer to this plugin. Two of a class need two names: assign one."""
        return str(vars(self).get("_name") or type(self).__name__)

    @name.setter
    def name(self, name: str) -> None:
        vars(self)["_name"] = name

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved with a checkpoint: plain data and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""


@dataclass(frozen=True)
class PluginInfo:
    """What is known of a registered plugin.

    Attributes:
        name: under which it is registered.
        distribution: name and version of the package it came from, or "this program".
        hooks: names of the hooks it implements.
    """

    name: str
    distribution: str
    hooks: tuple[str, ...]

    def __str__(self) -> str:
        return f"plugin {self.name!r} ({self.distribution})"


# Makes the context in which the hook of one plugin runs.
Watched = Callable[[], AbstractContextManager[None]]


class Plugins:
    """The plugins of one run: those installed under the entry point group `growkit`, and those given here.

    Args:
        plugins: instances, called in this order, before the installed ones.

    Raises:
        PluginError: a class instead of an instance, no hook at all, an unknown or undecorated hook, wrong
            arguments, a duplicate, or an installed plugin that cannot be imported.
    """

    def __init__(self, plugins: Sequence[object] = ()) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._given = list(plugins)
        self._plugins: list[object] = []
        self._info: dict[int, PluginInfo] = {}

        for entry in entry_points(group=hookspecs.PROJECT):
            distribution = _describe(entry.dist)
            try:
                plugin = entry.load()
            except Exception as error:
                raise PluginError(
                    f"plugin {entry.name!r} ({distribution}) cannot be imported",
                    seen=f"{type(error).__name__}: {error}",
                    expected=f"an importable module or instance at {entry.value!r}",
                    advice="repair or uninstall that package",
                ) from error
            self._register(plugin, entry.name, distribution)
        # pluggy calls the last registered first.
        for plugin in reversed(self._given):
            self._register(plugin, getattr(plugin, "name", None) or type(plugin).__name__, "this program")

    def __reduce__(self) -> tuple[Any, ...]:
        return Plugins, (self._given,)  # another process finds the installed ones by itself

    def __iter__(self) -> Iterator[PluginInfo]:
        return iter(self._info.values())

    @property
    def registered(self) -> list[tuple[PluginInfo, object]]:
        """The plugins with what is known of them."""
        return [(self._info[id(plugin)], plugin) for plugin in self._plugins]

    def call(self, hook: str, *, watch: Watched = nullcontext, **arguments: Any) -> list[tuple[str, Any]]:
        """Call a hook of every plugin, in order.

        Args:
            hook: its name.
            watch: makes the context in which the hook of one plugin runs.
            arguments: of the hook.

        Returns:
            The name of each plugin that returned something, with what it returned.

        Raises:
            PluginError: a plugin raised; the message names it. Errors of growkit keep their type.
        """
        results = []
        for implementation in self._implementations(hook):
            info = self._info[id(implementation.plugin)]
            try:
                with watch():
                    answer = implementation.function(*(arguments[name] for name in implementation.argnames))
                    if isinstance(answer, Iterator):
                        answer = list(answer)  # a generator runs here, where its failures are named
            except GrowkitError as error:
                raise type(error)(
                    f"{info} failed in {hook}: {error.what}",
                    seen=error.seen,
                    expected=error.expected,
                    advice=error.advice,
                ) from error
            except Exception as error:
                raise PluginError(
                    f"{info} failed in {hook}",
                    seen=f"{type(error).__name__}: {error}",
                    expected="a hook that returns",
                    advice="see its traceback (on the command line: GROWKIT_TRACEBACK=1), or leave the plugin out",
                ) from error
            if answer is not None:
                results.append((info.name, answer))
                if _is_first_result(hook):
                    break
        return results

    def rules(self) -> dict[Any, Any]:
        """Return the dimension rules of all plugins, by operation."""
        return {operation: rule for _, table in self.call("growkit_rules") for operation, rule in table.items()}

    def implement(self, hook: str) -> bool:
        """Say whether any plugin has this hook."""
        return any(hook in info.hooks for info in self)

    def first(self, hook: str, *, watch: Watched = nullcontext, **arguments: Any) -> Any | None:
        """Call a first-result hook; return the first answer, or None."""
        return next((answer for _, answer in self.call(hook, watch=watch, **arguments)), None)

    @property
    def stateful(self) -> dict[str, Plugin]:
        """The registered plugins whose state belongs into checkpoints, by name."""
        return {self._info[id(p)].name: p for p in self._plugins if isinstance(p, Plugin)}

    def describe(self, name: str) -> str:
        """Return "plugin 'name' (distribution)" for messages."""
        return next((str(info) for info in self if info.name == name), f"plugin {name!r}")

    def _implementations(self, hook: str) -> Iterator[pluggy.HookImpl]:
        # Called one by one, because pluggy does not say which of several implementations raised.
        implementations: list[pluggy.HookImpl] = getattr(self._manager.hook, hook).get_hookimpls()
        return reversed(implementations)

    def _register(self, plugin: object, name: str, distribution: str) -> None:
        label = f"plugin {name!r} ({distribution})"
        if inspect.isclass(plugin):
            raise PluginError(
                f"{label} is a class",
                seen=repr(plugin),
                expected="an instance, or a module with hooks",
                advice=f"register {plugin.__name__}() instead of {plugin.__name__}",
            )
        marked = _check_hooks(plugin, label)
        for other, info in self._info.items():
            if info.name == name or other == id(plugin):
                raise PluginError(
                    f"{label} is registered twice",
                    seen=f"{label} and {info}",
                    expected="distinct names and instances",
                    advice="leave one of them out, or give it another `name`",
                )
        try:
            self._manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            raise PluginError(
                f"{label} implements a hook with arguments that it does not have",
                seen=str(error).splitlines()[-1],
                expected="a subset of the arguments in growkit.hookspecs",
                advice="`docs/hooks.md` lists them",
            ) from error
        self._manager.check_pending()
        self._plugins.append(plugin)
        self._info[id(plugin)] = PluginInfo(name, distribution, tuple(marked))


@functools.cache
def installed() -> Plugins:
    """Return the installed plugins, for calls outside a run that has plugins of its own."""
    return Plugins()


def _check_hooks(plugin: object, label: str) -> list[str]:
    """Return the hooks of a plugin; refuse names that are no hooks, and hooks that are not decorated."""
    named = [name for name in dir(plugin) if name.startswith(_PREFIX) and callable(_peek(plugin, name))]
    for name in named:
        if name not in _HOOKS:
            raise PluginError(
                f"{label} implements a hook that does not exist",
                seen=name,
                expected=f"one of {', '.join(_HOOKS)}",
                advice=suggestion(name, _HOOKS, otherwise="rename the function if it is not meant as a hook"),
            )
        if getattr(_peek(plugin, name), f"{hookspecs.PROJECT}_impl", None) is None:
            raise PluginError(
                f"{label} has a function named like a hook that is not marked as one",
                seen=name,
                expected=f"@growkit.hookimpl above {name}",
                advice="decorate it, or rename it if it is not meant as a hook",
            )
    if not named:
        raise PluginError(
            f"{label} has no hook",
            seen=repr(plugin),
            expected=f"at least one of {', '.join(_HOOKS)}",
            advice="decorate its hooks with growkit.hookimpl",
        )
    return named


def _peek(plugin: object, name: str) -> Callable[..., Any] | None:
    return getattr(plugin, name, None)


def _is_first_result(hook: str) -> bool:
    options = getattr(getattr(hookspecs, hook), f"{hookspecs.PROJECT}_spec")
    return bool(options["firstresult"])


def _describe(distribution: Distribution | None) -> str:
    return f"{distribution.name} {distribution.version}" if distribution else "unknown distribution"
