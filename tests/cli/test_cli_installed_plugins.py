"""Plugins of other distributions, found through their entry points: what they offer, and what they do wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import RECIPE, SHORT, edited, refused, table, works

from growkit import Journal

THEIRS = "plugin 'theirs' (someone-elses 1.2)"

WORKS = '''
import growkit
from pathlib import Path

class Doubling(growkit.Plugin):
    """Copies every unit of the first width once."""

    def __init__(self, width: str):
        self.width = width

    @growkit.hookimpl
    def growkit_propose(self, context):
        size = context.structure.widths[self.width].size
        return [growkit.Candidate(growkit.Widen(self.width, copies=list(range(size))), gain=1.0)]

@growkit.hookimpl
def growkit_plugin_classes():
    return [Doubling]

@growkit.hookimpl
def growkit_recipes():
    return Path(__file__).parent / "their_recipes"
'''

MISSPELT = """
import growkit

@growkit.hookimpl
def growkit_plugin_clases():
    return []
"""


def class_of_plugin(name: str, hook: str, body: str, arguments: str = "self, context", init: str = "pass") -> str:
    return f"""
import growkit

class {name}(growkit.Plugin):
    def __init__(self):
        {init}

    @growkit.hookimpl
    def {hook}({arguments}):
        {body}
"""


def module_with(hook: str, body: str) -> str:
    return f"import growkit\n\n@growkit.hookimpl\ndef {hook}():\n    {body}\n"


def recipe_with(plugin: str) -> str:
    listed = RECIPE[RECIPE.index("    - class_path: growkit_plugins.splitting") : RECIPE.index("\ncompare:")]
    return edited((listed, f"    - class_path: {plugin}\n"))


# ---------------------------------------------------------------- what works


def test_an_installed_plugin_is_listed_and_its_recipe_runs(install):
    folder = install("theirs", WORKS, name="cli_their_plugin")
    (folder / "their_recipes").mkdir()
    listed = "class_path: Doubling\n      init_args: {width: network.hidden.0}\n"
    text = recipe_with("HERE").replace("class_path: HERE\n", listed).replace("# first-growth:", "# doubling:")
    (folder / "their_recipes" / "doubling.yaml").write_text(text)

    line = next(line for line in works("plugins").splitlines() if "theirs" in line)
    shown = re.split(r"\s{2,}", line.strip())
    assert shown == ["theirs", "someone-elses 1.2", "growkit_plugin_classes, growkit_recipes", "Doubling"]
    assert re.search(r"doubling .* theirs", works("ls"))
    rows = table(works("run", "doubling", *SHORT, "--folder", "out"))
    assert [rows[name].widths[0] for name in ("start", "growth event 1", "end")] == [4, 8, 16]
    assert Journal.from_json(Path("out/journal.json").read_text()).entries[0].note["plugins"] == ["Doubling"]


def test_a_class_that_a_plugin_offers_can_be_named_alone_even_if_it_is_imported_late(install, module):
    """As the documentation of `growkit_plugin_classes` promises."""
    module("cli_late", class_of_plugin("ImportedLate", "growkit_propose", "return []"))
    install(
        "theirs",
        module_with("growkit_plugin_classes", "import cli_late; return [cli_late.ImportedLate]"),
        name="cli_eager",
    )
    Path("mine.yaml").write_text(recipe_with("ImportedLate"))
    assert works("validate", "mine.yaml") == "mine: valid\n"


# ---------------------------------------------------------------- what is refused at the door


def test_a_misspelt_hook_in_another_process(install):
    folder = install("theirs", MISSPELT, name="cli_misspelt")
    done = subprocess.run(
        [sys.executable, "-m", "growkit", "run", "first-growth"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"growkit: error: {THEIRS}")
    assert lines[1:] == [
        "  seen:     growkit_plugin_clases",
        next(line for line in lines if line.startswith("  expected: one of growkit_propose, ")),
        "  advice:   did you mean 'growkit_plugin_classes'?",
    ]
    assert not Path("runs").exists()


@pytest.mark.parametrize("verb", [("ls",), ("plugins",), ("cat", "first-growth"), ("validate", "first-growth")])
def test_a_misspelt_hook_is_noticed_by_every_verb(install, verb):
    install("theirs", MISSPELT, name="cli_misspelt")
    assert refused(*verb).what.startswith(THEIRS)


def test_a_class_in_place_of_an_instance(install):
    code = class_of_plugin("NoInstance", "growkit_propose", "return []")
    install("theirs", code, name="cli_class", attribute="NoInstance")
    parts = refused("plugins")
    assert parts.what == f"{THEIRS} is a class"
    assert parts.advice == "register NoInstance() instead of NoInstance"


def test_a_name_that_is_taken(install):
    install("splitting", module_with("growkit_plugin_classes", "return []"), name="cli_taken")
    parts = refused("ls")
    assert "'splitting'" in parts.what
    assert "twice" in parts.what
    assert "someone-elses 1.2" in parts.seen
    assert f"growkit {version('growkit')}" in parts.seen


def test_one_name_from_two_distributions(install):
    code = module_with("growkit_plugin_classes", "return []")
    install("theirs", code, name="cli_one")
    install("theirs", code, name="cli_two", dist="yet-another")
    parts = refused("plugins")
    assert "someone-elses 1.2" in parts.seen
    assert "yet-another 1.2" in parts.seen


@pytest.mark.parametrize("code", ["import cli_absent_dependency", "1 / 0", "def :"])
def test_a_plugin_that_cannot_be_imported(install, code):
    install("theirs", code, name="cli_broken")
    assert refused("ls").what == f"{THEIRS} cannot be imported"


def test_two_recipes_of_one_name(install):
    code = module_with("growkit_recipes", "from pathlib import Path; return Path(__file__).parent / 'copies'")
    folder = install("theirs", code, name="cli_copies")
    (folder / "copies").mkdir()
    (folder / "copies" / "first-growth.yaml").write_text(RECIPE)
    parts = refused("ls")
    assert "'first-growth'" in parts.what
    assert THEIRS in parts.seen
    assert "'recipes'" in parts.seen


@pytest.mark.parametrize("body", ["raise KeyError('oh no')", "return 'absent-folder'", "return 5"])
def test_a_plugin_whose_recipes_are_none(install, body):
    if "folder" in body:
        body = "from pathlib import Path; return Path('absent-folder')"
    install("theirs", module_with("growkit_recipes", body), name="cli_no_recipes")
    assert THEIRS in refused("ls").what


@pytest.mark.parametrize("body", ["raise KeyError('oh no')", "return 5", "return [3]"])
def test_a_plugin_whose_classes_are_none(install, body):
    install("theirs", module_with("growkit_plugin_classes", body), name="cli_no_classes")
    assert THEIRS in refused("plugins").what


# ---------------------------------------------------------------- what fails in a recipe


@pytest.mark.parametrize("error", ["ValueError", "KeyError", "OSError", "RuntimeError", "AssertionError"])
def test_a_plugin_whose_constructor_raises(module, error):
    code = class_of_plugin(f"Init{error}", "growkit_propose", "return []", init=f"raise {error}('oh no')")
    module("cli_constructor", code)
    Path("mine.yaml").write_text(recipe_with(f"cli_constructor.Init{error}"))
    assert "oh no" in refused("validate", "mine.yaml").seen


def test_a_misspelt_hook_of_a_class_in_a_recipe(module):
    module("cli_hooks", class_of_plugin("MisspeltHook", "growkit_proposes", "return []"))
    Path("mine.yaml").write_text(recipe_with("cli_hooks.MisspeltHook"))
    parts = refused("run", "mine.yaml", *SHORT, "--folder", "out")
    assert "'MisspeltHook'" in parts.what
    assert parts.advice == "did you mean 'growkit_propose'?"


@pytest.mark.parametrize(
    "body",
    [
        "raise ZeroDivisionError('oh no')",
        "return 5",
        "return [5]",
        "return [growkit.Candidate(growkit.Widen('absent', copies=[0]), gain=1.0)]",
        "return [growkit.Candidate(growkit.Widen('network.hidden.0', copies=[99]), gain=1.0)]",
        "return [growkit.Candidate(growkit.Widen('network.classifier', copies=[0]), gain=1.0)]",
    ],
    ids=["raises", "no list", "no candidate", "no such width", "index out of range", "frozen width"],
)
def test_a_plugin_that_fails_while_the_network_trains(module, body):
    module("cli_fails", class_of_plugin("FailsLater", "growkit_propose", body))
    Path("mine.yaml").write_text(recipe_with("cli_fails.FailsLater"))
    parts = refused("run", "mine.yaml", *SHORT, "--folder", "out")
    assert "'FailsLater'" in parts.what
    assert len(Journal.from_json(Path("out/journal.json").read_text())) == 0
    assert Path("out/checkpoint.ckpt").is_file()


def test_advice_for_a_plugin_that_raises_speaks_of_what_can_be_seen(module):
    module("cli_raises", class_of_plugin("Raises", "growkit_propose", "raise ZeroDivisionError('oh no')"))
    Path("mine.yaml").write_text(recipe_with("cli_raises.Raises"))
    parts = refused("run", "mine.yaml", *SHORT, "--folder", "out")
    assert "failed in growkit_propose" in parts.what
    assert parts.seen == "ZeroDivisionError: oh no"
    assert "traceback above" not in parts.advice  # there is none above
