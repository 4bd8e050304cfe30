"""The documentation runs, and says what the code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import growkit
from growkit import hookspecs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("growkit_")}


def python_blocks() -> list[object]:
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    ]


@pytest.mark.parametrize("block", python_blocks())
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "documentation", "exec"), {})


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_arguments(hook: str) -> None:
    arguments = list(inspect.signature(HOOKS[hook]).parameters)
    row = f"| `{hook}` | {', '.join(f'`{a}`' for a in arguments)} |".replace("|  |", "| |")
    text = (ROOT / "docs/hooks.md").read_text()
    assert row in text
    assert f"{hook}({', '.join(arguments)})" in text, "and the loop shows where it fires"


def test_every_link_leads_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    for name in growkit.__all__:
        assert inspect.getdoc(getattr(growkit, name)), name


def test_readme_lists_every_recipe_and_plugin() -> None:
    readme = (ROOT / "README.md").read_text()
    from growkit.plugins import Plugins

    for _, classes in Plugins().call("growkit_plugin_classes"):
        assert all(f"| `{cls.__name__}` |" in readme for cls in classes)
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert f"| `{recipe.stem}` |" in readme
