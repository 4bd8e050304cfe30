"""A script of a user with a `LightningCLI` of its own, to which growkit is a callback in the YAML."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import growkit

SCRIPT = """
import json, sys
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from torch.utils.data import DataLoader, TensorDataset


class Model(pl.LightningModule):
    def __init__(self, width: int = 4):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.Tanh(), torch.nn.Linear(width, 3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.training_step(batch, batch_idx))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        inputs = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=8)

    val_dataloader = test_dataloader = train_dataloader


for arguments in json.loads(sys.argv[1]):
    cli = LightningCLI(Model, Data, args=arguments, save_config_kwargs={"overwrite": True})
    metrics = {name: value.item() for name, value in cli.trainer.callback_metrics.items()}
    print("RESULT", json.dumps([cli.model.net[0].out_features, metrics]))
"""


def documented() -> dict:
    """The YAML that docs/recipes.md shows for this."""
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    section = text.partition("**With your own LightningCLI.**")[2]
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1])


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "main.py").write_text(SCRIPT)
    config = documented()
    (growth,) = config["trainer"]["callbacks"]
    assert growth["class_path"] == "growkit.Growth"
    config["trainer"]["callbacks"].append(
        {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "run", "save_top_k": -1}}
    )
    config["trainer"] |= {"accelerator": "cpu", "max_epochs": 4, "logger": False, "default_root_dir": "run"}
    config["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "seed_everything": 1}))
    return tmp_path


def test_fit_validate_test_and_resume_of_a_script_with_lightning_cli(folder):
    """The resumed run takes the configuration that the first has saved."""
    first, last = "run/epoch=1-step=8.ckpt", "run/epoch=3-step=16.ckpt"
    calls = [
        ["fit", "--config", "config.yaml"],
        ["fit", "--config", "run/config.yaml", "--ckpt_path", first],
        ["validate", "--config", "config.yaml", "--ckpt_path", first],
        ["test", "--config", "config.yaml", "--ckpt_path", last],
        ["validate", "--config", "config.yaml", "--ckpt_path", last],
    ]
    command = [sys.executable, "-W", "ignore", "main.py", json.dumps(calls)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if "RESULT" in line]
    (grown, after_fit), (resumed, after_resume), (early, _), (tested, on_test), (validated, on_validation) = results
    assert 4 < early < grown == tested == resumed == validated
    assert after_fit["loss"] == after_resume["loss"] == on_test["loss"] == on_validation["loss"]
    loaded = growkit.load(folder / last, model())
    assert loaded.net[0].out_features == grown


def model() -> torch.nn.Module:
    module = torch.nn.Module()
    module.net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    module.forward = module.net.forward
    return module
