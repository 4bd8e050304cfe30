"""CIFAR-10 in both of its public layouts, how its images are cropped and flipped, and the networks for them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import requests
import torch
import torch.nn.functional as F
from broken_off import assert_equal, batches_of_two_fits

import growkit
from growkit.errors import RecipeError
from growkit_plugins.classification import CIFAR10, VGG, MobileNetV1, cifar, sources
from growkit_plugins.classification.pickles import read_pickle
from growkit_plugins.common import Remote

pytestmark = pytest.mark.usefixtures("no_data_at_hand")

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
STD = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)


class Python2Pickler(pickle._Pickler):
    """Writes as Python 2 did, which the official files come from: bytes are its `str`."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        short = len(value) < 256
        self.write((b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2_pickle(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def pictures(numbers: np.ndarray) -> np.ndarray:
    """Images whose red tells the row, green the column, and blue the number of the image."""
    images = np.zeros((len(numbers), 3, 32, 32), np.uint8)
    images[:, 0] = 7 * np.arange(32)[:, None] + 7
    images[:, 1] = 7 * np.arange(32) + 7
    images[:, 2] = numbers[:, None, None] + 1
    return images


def batch(numbers: np.ndarray) -> dict[bytes, object]:
    pixels = pictures(numbers).reshape(len(numbers), -1)
    return {
        b"batch_label": b"one of six",
        b"labels": (numbers % 10).tolist(),
        b"data": pixels,
        b"filenames": [b"x.png"],
    }


def tiny_files(version: str) -> dict[str, bytes]:
    """Five files of eight training images each and one of ten test images; the label of image i is i % 10."""
    numbers = [np.arange(8 * start, 8 * start + 8) for start in range(5)] + [np.arange(10)]
    if version == "python":
        return {name: python2_pickle(batch(part)) for name, part in zip(NAMES, numbers, strict=True)}
    return {
        f"{name}.bin": np.column_stack([part % 10, pictures(part).reshape(len(part), -1)]).astype(np.uint8).tobytes()
        for name, part in zip(NAMES, numbers, strict=True)
    }


def write_tiny(folder: Path, version: str = "python") -> None:
    folder.mkdir(parents=True)
    for name, content in tiny_files(version).items():
        (folder / name).write_bytes(content)


def tiny(tmp_path: Path, **options: int) -> CIFAR10:
    if not (tmp_path / "data").exists():
        write_tiny(tmp_path / "data")
    return CIFAR10(str(tmp_path / "data"), **{"held_out": 10, **options})


def bytes_of(images: torch.Tensor) -> torch.Tensor:
    """The pixels before normalisation."""
    return ((images * STD + MEAN) * 255).round().to(torch.uint8)


def numbers_of(loader) -> list[int]:
    return [int(number) - 1 for images, _ in loader for number in bytes_of(images)[:, 2].amax(dim=(1, 2))]


class TestFiles:
    @pytest.mark.parametrize(
        ("layout", "version"),
        [
            ("cifar-10-batches-py", "python"),
            ("cifar-10-batches-bin", "binary"),
            (".", "python"),
            (".", "binary"),
        ],
    )
    def test_layouts(self, tmp_path, layout, version):
        write_tiny(tmp_path / "data" / layout, version)
        data = CIFAR10(str(tmp_path / "data"), batch_size=7, held_out=10)
        data.prepare_data()
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            images, labels = next(iter(loader))
            assert (images.shape, images.dtype) == ((7, 3, 32, 32), torch.float32)
            assert (labels.shape, labels.dtype) == ((7,), torch.int64)
        train, val = numbers_of(data.train_dataloader()), numbers_of(data.val_dataloader())
        assert sorted(train + val) == list(range(40))
        assert len(val) == 10
        assert numbers_of(data.test_dataloader()) == list(range(10))

    def test_labels_stay_with_their_images(self, tmp_path):
        data = tiny(tmp_path)
        for loader in (data.train_dataloader(), data.val_dataloader()):
            labels = torch.cat([labels for _, labels in loader])
            torch.manual_seed(0)
            ordered = [(images, labels) for images, labels in loader]
            assert len(labels) == len(loader.dataset)
            for images, labels in ordered:
                assert labels.tolist() == [n % 10 for n in numbers_of([(images, labels)])]

    def test_validation_images_are_whole_and_normalised(self, tmp_path):
        data = tiny(tmp_path)
        (images, _labels) = next(iter(data.test_dataloader()))
        expected = torch.from_numpy(pictures(np.arange(10)))
        assert torch.equal(bytes_of(images), expected)
        torch.testing.assert_close(images, (expected.float() / 255 - MEAN) / STD)

    def test_split_follows_the_seed_and_the_limit_only_shortens(self, tmp_path):
        one, other, short = (tiny(tmp_path, **options) for options in ({}, {"seed": 1}, {"limit": 8}))
        assert numbers_of(other.val_dataloader()) != numbers_of(one.val_dataloader())
        assert numbers_of(short.val_dataloader()) == numbers_of(one.val_dataloader())
        assert torch.equal(short.split[0][1], one.split[0][1][:8])

    @pytest.mark.parametrize("options", [{"held_out": 0}, {"held_out": 40}, {"limit": 0}])
    def test_impossible_split(self, tmp_path, options):
        with pytest.raises(RecipeError, match="held_out from 1 to 39"):
            tiny(tmp_path, **options).train_dataloader()


class TestFilesThatAreNotThere:
    def test_named_folder(self, tmp_path, monkeypatch):
        write_tiny(tmp_path / "data")
        (tmp_path / "data" / "data_batch_3").unlink()
        monkeypatch.setenv("GROWKIT_DATA", str(tmp_path / "data"))
        with pytest.raises(RecipeError, match="CIFAR-10 was not found in the folder that GROWKIT_DATA names") as caught:
            CIFAR10().prepare_data()
        assert caught.value.seen.endswith("lacks data_batch_3")
        assert "cifar-10-batches-py" in caught.value.expected
        assert "kriz/cifar.html" in caught.value.advice
        assert "--data.root" in caught.value.advice

    def test_no_network(self):
        with pytest.raises(RecipeError, match="CIFAR-10 could not be downloaded") as caught:
            CIFAR10().prepare_data()
        assert "no route to host" in caught.value.seen
        assert "cifar-10-python.tar.gz" in caught.value.expected

    @pytest.mark.parametrize("whole", [True, False])
    def test_download(self, tmp_path, monkeypatch, whole):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, content in tiny_files("python").items():
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        content, asked = file.getvalue(), []
        remote = Remote(
            "https://example.org/a.tar.gz", f"md5:{hashlib.md5(content).hexdigest()}", "cifar-10-python.tar.gz"
        )
        monkeypatch.setattr(sources, "_CIFAR10", remote)

        def get(url, **_options):
            asked.append(url)
            answer = content if whole else content[:-9]
            return SimpleNamespace(headers={}, raise_for_status=lambda: None, iter_content=lambda chunk_size: [answer])

        monkeypatch.setattr(requests, "get", get)
        if not whole:
            with pytest.raises(RecipeError, match="hash"):
                CIFAR10().prepare_data()
            assert list((tmp_path / "cache").rglob("data_batch_*")) == []
            return
        CIFAR10().prepare_data()
        assert len(CIFAR10(held_out=10).split[0][0]) == 30
        assert asked == ["https://example.org/a.tar.gz"], "once, and only the archive"


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("content", "seen"),
        [
            (b"", "EOFError"),
            (b"\x89PNG", "UnpicklingError"),
            (python2_pickle(batch(np.arange(8)))[:-100], "truncated"),
            (pickle.dumps([1, 2]), "TypeError"),
            (python2_pickle({b"data": np.zeros((2, 3072), np.uint8)}), "KeyError: 'labels'"),
            (python2_pickle({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 2]}), "cannot reshape"),
            (python2_pickle({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}), "pixels float64"),
            (python2_pickle({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), r"labels int64 (1,)"),
            (python2_pickle({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}), r"labels int64 (2,)"),
        ],
    )
    def test_python_version(self, tmp_path, content, seen):
        data = tiny(tmp_path)
        (tmp_path / "data" / "data_batch_2").write_bytes(content)
        with pytest.raises(RecipeError, match="data_batch_2 of CIFAR-10 could not be read") as caught:
            data.train_dataloader()
        assert seen in caught.value.seen
        assert "3x32x32" in caught.value.expected

    @pytest.mark.parametrize(
        ("content", "seen"), [(bytes(100), "cannot reshape"), (b"\x0b" + bytes(3072), "labels uint8 (1,)")]
    )
    def test_binary_version(self, tmp_path, content, seen):
        write_tiny(tmp_path / "data", "binary")
        (tmp_path / "data" / "test_batch.bin").write_bytes(content)
        with pytest.raises(RecipeError, match=r"test_batch\.bin") as caught:
            CIFAR10(str(tmp_path / "data")).test_dataloader()
        assert seen in caught.value.seen

    @pytest.mark.parametrize("name", ["os.system", "builtins.eval", "numpy.load", "numpy.lib.npyio.load", "nt.system"])
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_a_pickle_runs_nothing(self, tmp_path, name, protocol):
        module, _, function = name.rpartition(".")
        call = f"c{module}\n{function}\n(V{tmp_path / 'trace'}\ntR.".encode()
        if protocol:
            call = bytes([0x80, protocol]) + call
        data = tiny(tmp_path)
        (tmp_path / "data" / "test_batch").write_bytes(call)
        with pytest.raises(RecipeError, match="which is no part of an array") as caught:
            data.test_dataloader()
        assert f"{module}.{function}" in caught.value.seen

    def test_a_pickle_that_reduces(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "evil"),)

        (tmp_path / "pickle").write_bytes(pickle.dumps({"data": Evil()}))
        with pytest.raises(pickle.UnpicklingError, match="mkdir"):
            read_pickle(tmp_path / "pickle")
        assert not (tmp_path / "evil").exists()

    def test_plain_data_and_arrays_are_read(self, tmp_path):
        content = {"a": [1, 2.5, None, True], "b": np.arange(6, dtype=np.int16).reshape(2, 3), "c": "text"}
        (tmp_path / "pickle").write_bytes(pickle.dumps(content, protocol=3))
        read = read_pickle(tmp_path / "pickle")
        assert read["a"] == content["a"]
        assert read["c"] == "text"
        np.testing.assert_array_equal(read["b"], content["b"])


class TestAugmentation:
    def test_a_view_is_a_crop_of_the_padded_image_and_its_mirror(self):
        images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
        data = cifar._Augmented(images, torch.arange(3))
        views = [[2, 0, 8, 0], [0, 4, 4, 0], [1, 3, 7, 1], [0, 8, 0, 1]]
        taken, labels = data.__getitems__(views)
        assert labels.tolist() == [2, 0, 1, 0]
        for got, (index, down, right, flip) in zip(taken, views, strict=True):
            want = F.pad(images[index], (4, 4, 4, 4))[:, down : down + 32, right : right + 32]
            want = want.flip(2) if flip else want
            torch.testing.assert_close(got, (want.float() / 255 - MEAN) / STD)

    def test_every_image_once_an_epoch_in_every_way(self):
        torch.manual_seed(0)
        views = cifar._Views(400)
        index, down, right, flip = torch.tensor(list(views)).unbind(1)
        assert sorted(index.tolist()) == list(range(400))
        assert index.tolist() != list(range(400))
        assert set(down.tolist()) == set(right.tolist()) == set(range(9))
        assert 0.4 < flip.float().mean() < 0.6
        assert len(views) == 400

    def test_draws_follow_the_generator_of_torch_and_change_with_each_epoch(self, tmp_path):
        loader = tiny(tmp_path, batch_size=8).train_dataloader()
        epochs = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            epochs.append([torch.cat([images for images, _ in loader]) for _ in range(2)])
        assert torch.equal(epochs[0][0], epochs[1][0])
        assert torch.equal(epochs[0][1], epochs[1][1])
        assert not torch.equal(epochs[0][0], epochs[0][1])
        assert not torch.equal(epochs[0][0], epochs[2][0])

    @pytest.mark.parametrize("stop", [3, 4, 6])
    def test_a_resumed_epoch_goes_on_with_the_same_views(self, tmp_path, stop):
        whole, parts = batches_of_two_fits(lambda: tiny(tmp_path, batch_size=8), tmp_path, stop=stop)
        assert len(whole) == 8
        assert_equal(whole, parts)


class TestNetworks:
    def test_the_whole_networks_have_as_many_parameters_as_published(self):
        wide = [64, 64], [128, 128], [256] * 4, [512] * 4, [512] * 4
        mobile = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
        # Those of the usual implementations for 32x32 images, VGG-19 less 5,504 biases in front of norms.
        assert sum(p.numel() for p in VGG(3, wide, 10).parameters()) == 20_040_522 - 5_504
        assert sum(p.numel() for p in MobileNetV1(3, mobile, 10).parameters()) == 3_217_226

    def test_where_mobilenet_shrinks(self):
        model, images = MobileNetV1(3, [2] * 14, classes=10).eval(), torch.zeros(1, 3, 32, 32)
        sides = []
        for block in model.blocks:
            images = block(images)
            sides.append(images.shape[2])
        assert sides == [32, 32, 16, 16, 8, 8, 4, 4, 4, 4, 4, 4, 2, 2]

    @pytest.mark.parametrize("widths", [[[4]], [[4, 3], [2]], [[2], [2, 2], [3]]])
    def test_vgg(self, widths):
        model = VGG(3, widths, classes=5)
        images = torch.randn(2, 3, 16, 16)
        assert model(images).shape == (2, 5)
        assert model.blocks(images).shape[2] == 16 // 2 ** len(widths)
        assert len(model.blocks) == sum(map(len, widths))

    @pytest.mark.parametrize("model", [MobileNetV1(3, [4] * 7, 10), VGG(3, [[4], [4, 4]], 10)])
    def test_every_layer_but_the_classifier_grows_and_the_function_stays(self, model):
        images = torch.randn(2, 3, 32, 32)
        model.eval()
        before = model(images)
        names = [name for name, width in growkit.trace(model, images).widths.items() if width.frozen is None]
        assert len(names) == len(model.blocks)
        for name in names:
            growkit.apply(model, growkit.Widen(name, copies=[0, 2]), example=(images,))
        torch.testing.assert_close(model(images), before, atol=1e-5, rtol=1e-5)
        assert all(width.size == 6 for width in map(growkit.trace(model, images).widths.get, names))
