"""Every hook is documented, and exercised by a test."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from growkit import hookspecs

TESTS = Path(__file__).parents[1]
HOOKS = [name for name in vars(hookspecs) if name.startswith("growkit_")]


def specification(hook: str):
    return getattr(hookspecs, hook)


def test_there_are_hooks():
    assert {"growkit_propose", "growkit_select", "growkit_carry_optimizer_state", "growkit_grown"} <= set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_its_docstring_says_when_it_fires(hook):
    summary, _, rest = (inspect.getdoc(specification(hook)) or "").partition("\n")
    assert summary.endswith(".")
    assert re.search(r"\bFires\b", rest)


@pytest.mark.parametrize("hook", HOOKS)
def test_its_docstring_says_what_a_return_value_does_unless_it_returns_nothing(hook):
    returns = specification(hook).__annotations__["return"]
    text = inspect.getdoc(specification(hook)) or ""
    assert returns == "None" or re.search(r"\b[Rr]eturns?\b", text)


@pytest.mark.parametrize("hook", HOOKS)
def test_it_is_implemented_by_a_plugin_in_some_test(hook):
    """A hook that no test implements may as well never be called."""
    sources = [path.read_text() for path in TESTS.rglob("*.py") if path != Path(__file__)]
    pattern = re.compile(rf"@(growkit\.)?hookimpl[^\n]*\n\s*def {hook}\(")
    assert any(pattern.search(source) for source in sources)


@pytest.mark.parametrize("hook", HOOKS)
def test_it_is_called_somewhere_in_growkit(hook):
    sources = [path.read_text() for path in (TESTS.parent / "growkit").rglob("*.py") if path.name != "hookspecs.py"]
    assert any(f'"{hook}"' in source for source in sources)
