"""A plugin from outside, installed with pip, is found by its entry point and works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from growkit.plugins import Plugins

SOURCE = Path(__file__).parents[1] / "hungry_plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the plugin was installed; the sources are copied first, so that they stay clean."""
    source, target = tmp_path_factory.mktemp("source") / "hungry", tmp_path_factory.mktemp("site")
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)],
        check=True,
        capture_output=True,
    )
    return target


def python(code: str, site: Path, folder: Path) -> str:
    """Run a program in a fresh interpreter that sees the installed plugin; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_is_found_by_its_entry_point_with_its_distribution(site, tmp_path):
    code = """
from growkit.plugins import Plugins
plugins = Plugins()
for info in plugins:
    print(info.name, "|", info.distribution, "|", ",".join(info.hooks))
for name, folder in plugins.call("growkit_recipes"):
    print(name, sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml")))
"""
    lines = python(code, site, tmp_path).splitlines()
    assert "hungry | growkit-hungry 0.3.1 | growkit_plugin_classes,growkit_recipes" in lines
    assert "hungry ['hungry-digits.yaml']" in lines


def test_it_grows_a_network(site, tmp_path):
    code = """
import warnings
warnings.filterwarnings("ignore", ".*does not have many workers")
warnings.filterwarnings("ignore", ".*LeafSpec")
import pytorch_lightning as pl
from growkit_hungry import Hungry
from growkit_plugins.classification import MLP, Classifier, Digits
import growkit

pl.seed_everything(0)
growth = growkit.Growth([Hungry(share=0.5)], when=growkit.every(epochs=1))
trainer = pl.Trainer(
    max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, callbacks=[growth],
)
module = Classifier(MLP(64, [4, 4], 10))
trainer.fit(module, Digits())
print([layer.out_features for layer in module.network.hidden[::2]])
print(all(event.note["plugins"] == ["Hungry"] and event.note["gain"] > 0 for event in growth.events))
print(max(event.note["moved"] for event in growth.events) < 1e-4)
"""
    output = python(code, site, tmp_path).splitlines()
    assert output[-3:] == ["[9, 9]", "True", "True"]  # 4 + 2 + 3


def test_without_it_nobody_knows_it():
    """The tests above find what was installed, not what happens to lie around."""
    assert "hungry" not in {info.name for info in Plugins()}


def test_the_sources_stay_clean(site):
    assert site.is_dir()
    assert {path.name for path in SOURCE.rglob("*")} - {"__pycache__"} == {
        *("pyproject.toml", "growkit_hungry", "__init__.py", "hungry-digits.yaml")
    }
