"""Models, task and data sets of `growkit_plugins.classification`."""

from __future__ import annotations

import copy
import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import requests
import torch
from pytorch_lightning.cli import LightningCLI

from growkit.errors import RecipeError
from growkit_plugins.classification import MLP, MNIST, Classifier, ConvNet, Digits, FashionMNIST, sources
from growkit_plugins.classification.idx import read_idx
from growkit_plugins.common import TensorBatches

pytestmark = pytest.mark.usefixtures("no_data_at_hand")

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# Lightning's own remarks: on loaders without workers, and on how it asks torch about trees.
quiet_lightning = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*is deprecated")


def idx_bytes(array: np.ndarray, code: int = 0x08) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(IDX_TYPES[code]).tobytes()


def tiny_files() -> dict[str, bytes]:
    """The four files with 40 training and 10 test images; the pixels of image i are i, its label i % 10."""
    files = {}
    for part, count in (("train", 40), ("t10k", 10)):
        numbers = np.arange(count)
        files[f"{part}-images-idx3-ubyte"] = idx_bytes(np.broadcast_to(numbers[:, None, None], (count, 28, 28)))
        files[f"{part}-labels-idx1-ubyte"] = idx_bytes(numbers % 10)
    return files


def write_tiny(folder: Path, *, packed: bool) -> None:
    folder.mkdir(parents=True)
    for name, content in tiny_files().items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)


def pixel_numbers(loader) -> list[int]:
    """The number of every image in the data of `loader`, read back from its pixels."""
    images = loader.dataset.tensors[0]
    return ((images * 0.3530 + 0.2860) * 255).mean(dim=(1, 2, 3)).round().int().tolist()


@pytest.fixture
def trainer_options() -> dict:
    return {
        "logger": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


class TestIdx:
    @pytest.mark.parametrize("code", IDX_TYPES)
    @pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 28, 28)])
    @pytest.mark.parametrize("packed", [False, True])
    def test_round_trip(self, tmp_path, code, shape, packed):
        array = np.arange(np.prod(shape)).reshape(shape)
        content = idx_bytes(array, code)
        path = tmp_path / ("file.gz" if packed else "file")
        path.write_bytes(gzip.compress(content) if packed else content)
        result = read_idx(path)
        np.testing.assert_array_equal(result, array)
        assert result.dtype == np.dtype(IDX_TYPES[code]).newbyteorder("=")
        assert result.flags.writeable

    @pytest.mark.parametrize(
        ("content", "seen", "expected"),
        [
            (b"", "(none)", "magic"),
            (b"\x89PNG....", "89 50 4e 47", "magic"),
            (b"\0\0\x0a\x01", "00 00 0a 01", "magic"),
            (b"\0\0\x08\x03\0\0", "6 bytes", "16 bytes"),
            (idx_bytes(np.zeros((2, 3)))[:-1], "17 bytes", r"18 bytes for the shape (2, 3)"),
            (idx_bytes(np.zeros((2, 3))) + b"\0", "19 bytes", r"18 bytes for the shape (2, 3)"),
        ],
        ids=["empty", "another format", "unknown type", "half a header", "truncated", "too long"],
    )
    def test_broken_content(self, tmp_path, content, seen, expected):
        path = tmp_path / "broken"
        path.write_bytes(content)
        with pytest.raises(RecipeError, match="broken could not be read") as caught:
            read_idx(path)
        assert seen in caught.value.seen
        assert expected in caught.value.expected

    def test_missing(self, tmp_path):
        with pytest.raises(RecipeError, match="No such file"):
            read_idx(tmp_path / "absent")

    @pytest.mark.parametrize("content", [b"not gzip", gzip.compress(bytes(1000))[:-9]], ids=["none", "truncated"])
    def test_broken_gzip(self, tmp_path, content):
        path = tmp_path / "file.gz"
        path.write_bytes(content)
        with pytest.raises(RecipeError, match="a readable gzip file"):
            read_idx(path)


class TestFashionMNIST:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
    def test_folder(self, tmp_path, packed, layout):
        write_tiny(tmp_path / "data" / layout, packed=packed)
        data = FashionMNIST(str(tmp_path / "data"), batch_size=7, held_out=10)
        data.prepare_data()
        torch.manual_seed(0)
        images, labels = next(iter(data.train_dataloader()))
        assert images.shape == (7, 1, 28, 28)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        train, val, test = (
            pixel_numbers(loader) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        )
        assert sorted(train + val) == list(range(40))
        assert len(val) == 10
        assert test == list(range(10))
        assert [number % 10 for number in train] == data.train_dataloader().dataset.tensors[1].tolist()

    def test_split_follows_the_seed_and_the_limit_only_shortens(self, tmp_path):
        write_tiny(tmp_path / "data", packed=False)
        root = str(tmp_path / "data")
        one, same, other, short = (
            FashionMNIST(root, held_out=10, **options) for options in ({}, {}, {"seed": 1}, {"limit": 8})
        )
        train, val = pixel_numbers(one.train_dataloader()), pixel_numbers(one.val_dataloader())
        assert pixel_numbers(same.val_dataloader()) == val
        assert pixel_numbers(other.val_dataloader()) != val
        assert pixel_numbers(short.val_dataloader()) == val
        assert pixel_numbers(short.train_dataloader()) == train[:8]

    @pytest.mark.parametrize("options", [{"held_out": 0}, {"held_out": 40}, {"held_out": 5, "limit": 0}])
    def test_impossible_split(self, tmp_path, options):
        write_tiny(tmp_path / "data", packed=False)
        with pytest.raises(RecipeError, match="held_out from 1 to 39"):
            FashionMNIST(str(tmp_path / "data"), **options).train_dataloader()

    def test_images_and_labels_must_fit(self, tmp_path):
        write_tiny(tmp_path / "data", packed=False)
        (tmp_path / "data" / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(39)))
        with pytest.raises(RecipeError, match=r"labels of the shape \(39,\)"):
            FashionMNIST(str(tmp_path / "data")).train_dataloader()

    def test_environment_variable_gives_way_to_root(self, tmp_path, monkeypatch):
        write_tiny(tmp_path / "data", packed=False)
        monkeypatch.setenv("GROWKIT_DATA", str(tmp_path / "data"))
        assert len(FashionMNIST().test_dataloader().dataset) == 10
        with pytest.raises(RecipeError, match="the folder that root names"):
            FashionMNIST(str(tmp_path)).prepare_data()

    def test_named_folder_without_the_files_is_never_filled(self, tmp_path, monkeypatch):
        write_tiny(tmp_path / "data", packed=True)
        (tmp_path / "data" / "t10k-images-idx3-ubyte.gz").unlink()
        monkeypatch.setenv("GROWKIT_DATA", str(tmp_path / "data"))
        with pytest.raises(RecipeError, match="the folder that GROWKIT_DATA names") as caught:
            FashionMNIST().prepare_data()
        assert caught.value.seen.endswith("lacks t10k-images-idx3-ubyte")
        assert "FashionMNIST/raw" in Path(caught.value.expected).as_posix()
        assert "dataset-fashion-mnist" in caught.value.advice
        with pytest.raises(RecipeError, match="absent is no folder"):
            FashionMNIST(str(tmp_path / "absent")).prepare_data()

    def test_cache_needs_no_network(self, tmp_path):
        write_tiny(tmp_path / "cache" / "FashionMNIST" / "raw", packed=True)
        assert len(FashionMNIST().test_dataloader().dataset) == 10

    def test_no_network(self):
        with pytest.raises(RecipeError, match="no route to host") as caught:
            FashionMNIST().prepare_data()
        for help_needed in (
            "zalandoresearch/fashion-mnist",
            "dataset-fashion-mnist",
            "--data.root",
            "GROWKIT_DATA",
        ):
            assert help_needed in caught.value.advice

    def test_missing_optional_package(self):
        with pytest.raises(RecipeError, match=r"pip install 'growkit\[data\]'"):
            sources.optional("growkit_has_no_such_module")


class TestMNIST:
    @pytest.mark.parametrize("packed", [False, True])
    def test_folder(self, tmp_path, packed):
        write_tiny(tmp_path / "data" / "MNIST" / "raw", packed=packed)
        data = MNIST(str(tmp_path / "data"), batch_size=7, held_out=10)
        data.prepare_data()
        images, labels = next(iter(data.test_dataloader()))
        torch.testing.assert_close(images[3], torch.full((1, 28, 28), (3 / 255 - 0.1307) / 0.3081))
        assert labels.tolist() == list(range(7))
        assert len(data.train_dataloader().dataset) == 30
        assert len(data.val_dataloader().dataset) == 10

    @pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
    def test_files_of_the_same_name_are_not_taken_for_it(self, tmp_path, layout):
        write_tiny(tmp_path / "data" / layout, packed=False)
        with pytest.raises(RecipeError, match="MNIST was not found") as caught:
            MNIST(str(tmp_path / "data")).prepare_data()
        assert caught.value.expected.endswith(str(Path("data", "MNIST", "raw")))

    def test_no_network(self):
        with pytest.raises(RecipeError, match="MNIST could not be downloaded"):
            MNIST().prepare_data()


class TestDownload:
    @pytest.fixture
    def served(self, monkeypatch) -> dict[str, bytes]:
        """What the server answers for each official file name; the checksums are those of the tiny files."""
        served = {name: gzip.compress(content, mtime=0) for name, content in tiny_files().items()}
        sums = {name: hashlib.md5(content).hexdigest() for name, content in served.items()}
        monkeypatch.setattr(sources, "_MD5", sums)

        def get(url, **_options):
            content = served[url.rpartition("/")[2].removesuffix(".gz")]

            def chunks(chunk_size):
                yield content
                if content == b"half":
                    raise requests.ConnectionError("the line went dead")

            return SimpleNamespace(headers={}, raise_for_status=lambda: None, iter_content=chunks)

        monkeypatch.setattr(requests, "get", get)
        return served

    @pytest.mark.parametrize(
        ("answer", "message"),
        [(b"half", "the line went dead"), (b"wrong", "hash")],
        ids=["half", "wrong"],
    )
    def test_a_failed_download_leaves_whole_files_only(self, tmp_path, served, answer, message):
        whole = dict(served)
        served["t10k-labels-idx1-ubyte"] = answer
        with pytest.raises(RecipeError, match=message):
            FashionMNIST().prepare_data()
        kept = {path.name: path.read_bytes() for path in (tmp_path / "cache" / "FashionMNIST" / "raw").iterdir()}
        whole_names = set(whole) - {"t10k-labels-idx1-ubyte"}
        assert kept == {f"{name}.gz": whole[name] for name in whole_names}
        served.clear()
        served["t10k-labels-idx1-ubyte"] = whole["t10k-labels-idx1-ubyte"]
        FashionMNIST().prepare_data()
        assert len(FashionMNIST(held_out=10).train_dataloader().dataset) == 30


class TestDigits:
    def test_shapes_and_scale(self):
        data = Digits(batch_size=50)
        torch.manual_seed(0)
        images, labels = next(iter(data.train_dataloader()))
        assert images.shape == (50, 1, 8, 8)
        assert images.dtype == torch.float32
        assert labels.shape == (50,)
        assert labels.dtype == torch.int64
        everything = data.train_dataloader().dataset.tensors[0]
        torch.testing.assert_close(everything.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(everything.std(), torch.tensor(1.0), atol=1e-5, rtol=0)

    def test_split_is_stratified(self):
        data = Digits()
        train, val = (loader.dataset.tensors[1] for loader in (data.train_dataloader(), data.val_dataloader()))
        assert (len(train), len(val)) == (1257, 540)
        shares = train.bincount(minlength=10) / len(train), val.bincount(minlength=10) / len(val)
        torch.testing.assert_close(*shares, atol=0.002, rtol=0)

    def test_split_follows_the_seed(self):
        one, same, other = (Digits(seed=seed).val_dataloader().dataset.tensors[0] for seed in (0, 0, 1))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_an_epoch_holds_every_image_once_in_a_new_order(self):
        loader = Digits().train_dataloader()
        torch.manual_seed(0)
        first, second = (torch.cat([images for images, _ in loader]).sum(dim=(1, 2, 3)) for _ in range(2))
        assert not torch.equal(first, second)
        assert torch.equal(first.sort().values, second.sort().values)


class TestModels:
    @pytest.mark.parametrize("widths", [[], [5], [4, 3]])
    def test_mlp(self, widths):
        model = MLP(64, widths, classes=10)
        assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
        linear = [f"hidden.{2 * position}" for position in range(len(widths))] + ["classifier"]
        assert [name.removesuffix(".weight") for name, _ in model.named_parameters() if "weight" in name] == linear

    @pytest.mark.parametrize("widths", [[], [5], [4, 3], [4, 3, 2]])
    def test_convnet(self, widths):
        model = ConvNet(3, widths, classes=10)
        assert model(torch.zeros(2, 3, 9, 8)).shape == (2, 10)
        shrunk = {0: (9, 8), 1: (4, 4)}.get(len(widths), (2, 2))
        assert model.blocks(torch.zeros(2, 3, 9, 8)).shape[2:] == shrunk

    def test_order_of_pixels_matters_to_the_convnet(self):
        torch.manual_seed(0)
        model, images = ConvNet(1, [4, 4], classes=3).eval(), torch.randn(2, 1, 8, 8)
        assert not torch.allclose(model(images), model(images.flip(dims=(2,))))


class TestClassifier:
    @quiet_lightning
    def test_learns(self, trainer_options):
        pl.seed_everything(0, verbose=False)
        task = Classifier(MLP(64, [16], 10), lambda parameters: torch.optim.Adam(parameters, lr=0.01))
        trainer = pl.Trainer(max_steps=60, **trainer_options)
        data = Digits()
        [before] = trainer.validate(task, data, verbose=False)
        trainer.fit(task, data)
        after = trainer.callback_metrics
        assert {"train_loss", "train_accuracy", "val_loss", "val_accuracy"} <= after.keys()
        assert after["val_loss"] < 0.5 * before["val_loss"]
        assert after["val_accuracy"] > 0.8

    @quiet_lightning
    def test_logs_means_over_images(self, trainer_options):
        torch.manual_seed(0)
        task, data = (
            Classifier(MLP(4, [], 3)),
            TensorBatches(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])),
        )
        loader = torch.utils.data.DataLoader(data, batch_size=4, collate_fn=TensorBatches.collate)
        [metrics] = pl.Trainer(**trainer_options).test(task, loader, verbose=False)
        with torch.no_grad():
            logits = task(data.tensors[0])
        loss = torch.nn.functional.cross_entropy(logits, data.tensors[1])
        assert metrics["test_loss"] == pytest.approx(loss.item())
        assert metrics["test_accuracy"] == pytest.approx((logits.argmax(1) == data.tensors[1]).float().mean().item())

    @quiet_lightning
    def test_a_copy_runs_without_a_trainer(self, trainer_options):
        task, data = Classifier(ConvNet(1, [3], 10)), Digits()
        batch = next(iter(data.val_dataloader()))

        class Copies(pl.Callback):
            losses = ()

            def on_train_batch_end(self, trainer, pl_module, *_):
                double = copy.deepcopy(pl_module)
                self.losses = (
                    double.training_step(batch),
                    double.validation_step(batch),
                    double.test_step(batch),
                )
                self.losses[0].backward()
                assert double.network.classifier.weight.grad is not pl_module.network.classifier.weight.grad

        copies = Copies()
        pl.Trainer(max_steps=1, limit_val_batches=0, callbacks=[copies], **trainer_options).fit(task, data)
        assert len(copies.losses) == 3
        assert all(torch.isfinite(loss) for loss in copies.losses)

    def test_scheduler_watches_the_validation_loss_by_default(self):
        task = Classifier(MLP(4, [], 3), scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
        assert task.configure_optimizers()["lr_scheduler"]["monitor"] == "val_loss"

    @quiet_lightning
    def test_recipe(self, tmp_path, monkeypatch):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(RECIPE.format(folder=tmp_path.as_posix()))
        monkeypatch.setattr("sys.argv", ["growkit", "--config", str(recipe)])
        # LightningCLI itself calls a method that newer jsonargparse deprecates.
        monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        cli = LightningCLI(run=False, save_config_callback=None)
        cli.trainer.fit(cli.model, cli.datamodule)
        [optimizer], [schedule] = cli.trainer.optimizers, cli.trainer.lr_scheduler_configs
        assert isinstance(optimizer, torch.optim.SGD)
        assert optimizer.param_groups[0]["initial_lr"] == 0.1
        assert isinstance(schedule.scheduler, torch.optim.lr_scheduler.StepLR)
        saved = torch.load(cli.trainer.checkpoint_callback.best_model_path, weights_only=True)
        assert "network.hidden.0.weight" in saved["state_dict"]
        assert "hyper_parameters" not in saved
        assert copy.deepcopy(cli.model).configure_optimizers()["optimizer"].param_groups[0]["momentum"] == 0.9

    def test_pickles(self):
        task = Classifier(MLP(4, [2], 3), torch.optim.SGD)
        images = torch.ones(2, 4)
        assert torch.equal(pickle.loads(pickle.dumps(task))(images), task(images))


RECIPE = """
seed_everything: 0
model:
  class_path: growkit_plugins.classification.Classifier
  init_args:
    network:
      class_path: growkit_plugins.classification.MLP
      init_args: {{inputs: 64, widths: [4, 4], classes: 10}}
    optimizer:
      class_path: torch.optim.SGD
      init_args: {{lr: 0.1, momentum: 0.9}}
    scheduler:
      class_path: torch.optim.lr_scheduler.StepLR
      init_args: {{step_size: 1}}
data:
  class_path: growkit_plugins.classification.Digits
  init_args: {{batch_size: 64}}
trainer:
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: {folder}
"""
