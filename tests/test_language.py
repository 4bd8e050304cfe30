"""The text, the transformer and the task of language models."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import requests
import torch
from broken_off import assert_equal, batches_of_two_fits

import growkit
from growkit.errors import RecipeError
from growkit_plugins.common import Remote
from growkit_plugins.language import CharTransformer, LanguageModel, TinyShakespeare
from growkit_plugins.language import data as module
from growkit_plugins.splitting import Splitting

pytestmark = pytest.mark.usefixtures("no_data_at_hand")

TEXT = "".join(f"{number} bottles of ale, é.\n" for number in range(40))


def write(folder: Path, content: bytes | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "input.txt").write_bytes(TEXT.encode() if content is None else content)


def tiny(tmp_path: Path, **options: int) -> TinyShakespeare:
    if not (tmp_path / "data").exists():
        write(tmp_path / "data")
    return TinyShakespeare(str(tmp_path / "data"), **{"batch_size": 4, "block_size": 6, "batches": 5, **options})


def read(data: TinyShakespeare, tokens: torch.Tensor) -> str:
    return "".join(data.vocabulary[token] for token in tokens)


class TestText:
    @pytest.mark.parametrize("layout", [".", "tinyshakespeare"])
    @pytest.mark.parametrize("how", ["root", "GROWKIT_DATA"])
    def test_layouts(self, tmp_path, monkeypatch, layout, how):
        write(tmp_path / "data" / layout)
        monkeypatch.setenv("GROWKIT_DATA", str(tmp_path / ("absent" if how == "root" else "data")))
        data = TinyShakespeare(str(tmp_path / "data") if how == "root" else None)
        data.prepare_data()
        assert data.vocabulary == "".join(sorted(set(TEXT)))

    def test_training_blocks_come_from_the_first_nine_tenths_and_targets_follow(self, tmp_path):
        data, cut = tiny(tmp_path, batches=300), len(TEXT) * 9 // 10
        loader = data.train_dataloader()
        assert len(loader) == 300
        starts = set()
        for inputs, targets in loader:
            assert inputs.shape == targets.shape == (4, 6)
            assert inputs.dtype == targets.dtype == torch.int64
            assert torch.equal(inputs[:, 1:], targets[:, :-1])
            for row, following in zip(inputs, targets, strict=True):
                text = read(data, row) + read(data, following[-1:])
                assert text in TEXT[:cut]
                starts.add(text)
        assert len(starts) > 100
        assert len(loader.dataset) == cut - 6

    def test_validation_blocks_follow_each_other(self, tmp_path):
        data, cut = tiny(tmp_path), len(TEXT) * 9 // 10
        inputs, targets = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
        assert read(data, inputs.flatten()) == TEXT[cut : cut + inputs.numel()]
        assert read(data, targets.flatten()) == TEXT[cut + 1 : cut + 1 + targets.numel()]
        assert len(TEXT) - cut - inputs.numel() <= 6, "but for the last block that is not whole"

    def test_blocks_follow_the_generator_of_torch(self, tmp_path):
        loader, epochs = tiny(tmp_path).train_dataloader(), []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            epochs.append(torch.cat([inputs for inputs, _ in loader]))
        assert torch.equal(epochs[0], epochs[1])
        assert not torch.equal(epochs[0], epochs[2])

    def test_a_resumed_epoch_goes_on_with_the_same_blocks(self, tmp_path):
        whole, parts = batches_of_two_fits(lambda: tiny(tmp_path), tmp_path, stop=7)
        assert len(whole) == 10
        assert_equal(whole, parts)

    def test_too_short(self, tmp_path):
        data = tiny(tmp_path, block_size=len(TEXT) // 2)
        data.train_dataloader()
        with pytest.raises(RecipeError, match="could not be cut into blocks") as caught:
            data.val_dataloader()
        assert "block_size" in caught.value.advice

    def test_no_text(self, tmp_path):
        write(tmp_path / "data", b"\xff\xfe\x00")
        with pytest.raises(RecipeError, match=r"input\.txt could not be read") as caught:
            _ = TinyShakespeare(str(tmp_path / "data")).vocabulary
        assert caught.value.expected == "text in UTF-8"

    def test_missing(self, tmp_path):
        (tmp_path / "data").mkdir()
        with pytest.raises(RecipeError, match="Tiny Shakespeare was not found in the folder that root names") as caught:
            TinyShakespeare(str(tmp_path / "data")).prepare_data()
        assert caught.value.seen.endswith("lacks input.txt")
        assert "char-rnn" in caught.value.advice

    @pytest.mark.parametrize("answer", ["whole", "broken"])
    def test_download(self, tmp_path, monkeypatch, answer):
        content = TEXT.encode()
        remote = Remote(
            "https://example.org/i", f"sha256:{hashlib.sha256(content).hexdigest()}", "tinyshakespeare/input.txt"
        )
        monkeypatch.setattr(module, "_SOURCE", replace(module._SOURCE, remotes={"input.txt": remote}))
        chunks = [content] if answer == "whole" else [content[1:]]
        response = SimpleNamespace(headers={}, raise_for_status=lambda: None, iter_content=lambda chunk_size: chunks)
        monkeypatch.setattr(requests, "get", lambda url, **_: response)
        if answer == "broken":
            with pytest.raises(RecipeError, match="hash"):
                TinyShakespeare().prepare_data()
            assert not list((tmp_path / "cache").rglob("input.txt"))
            return
        TinyShakespeare().prepare_data()
        assert TinyShakespeare().vocabulary == "".join(sorted(set(TEXT)))


class TestTransformer:
    def test_what_comes_later_changes_nothing(self):
        torch.manual_seed(0)
        model = CharTransformer(10, block_size=8, channels=12, heads=3, widths=[5, 7]).double()
        tokens = torch.randint(10, (2, 8))
        before = model(tokens)
        assert before.shape == (2, 8, 10)
        changed = tokens.clone()
        changed[:, 5] = (changed[:, 5] + 1) % 10
        after = model(changed)
        torch.testing.assert_close(after[:, :5], before[:, :5])
        assert all(not torch.allclose(after[:, place], before[:, place]) for place in (5, 6, 7))
        torch.testing.assert_close(model(tokens[:, :3]), before[:, :3])

    def test_places_and_order_matter(self):
        torch.manual_seed(0)
        model = CharTransformer(10, block_size=8, channels=12, heads=3, widths=[5])
        last = model(torch.tensor([[1, 2, 3], [2, 1, 3], [3, 3, 3]]))[:, -1]
        assert not torch.allclose(last[0], last[1])
        same = model(torch.tensor([[3, 3, 3]]))[0]
        assert not torch.allclose(same[0], same[1])

    def test_widths_are_those_of_the_mlps(self):
        model = CharTransformer(10, block_size=8, channels=12, heads=3, widths=[5, 7])
        widths = growkit.trace(model, torch.randint(10, (2, 8))).widths
        assert {name: w.size for name, w in widths.items() if "mlp" in name} == {
            "blocks.0.mlp.hidden": 5,
            "blocks.1.mlp.hidden": 7,
        }

    def test_channels_are_shared_by_the_heads(self):
        with pytest.raises(ValueError, match="multiples of heads, not 10 for 3 heads"):
            CharTransformer(10, block_size=8, channels=10, heads=3, widths=[5])

    def test_growing_the_mlps_keeps_the_function(self):
        model = CharTransformer(10, block_size=8, channels=12, heads=3, widths=[5, 7]).double()
        tokens = torch.randint(10, (2, 8))
        before = model(tokens)
        for name in ("blocks.0.mlp.hidden", "blocks.1.mlp.hidden"):
            growkit.apply(model, growkit.Widen(name, copies=[0, 3]), example=(tokens,))
        torch.testing.assert_close(model(tokens), before)


def test_the_language_model_learns_and_its_mlps_split(tmp_path):
    torch.manual_seed(0)
    data = tiny(tmp_path, batch_size=16, batches=40)
    network = CharTransformer(len(data.vocabulary), block_size=6, channels=16, heads=2, widths=[4, 4])
    task = LanguageModel(network, lambda parameters: torch.optim.Adam(parameters, lr=0.01))
    growth = growkit.Growth(
        plugins=[Splitting(fraction=0.5, step=0.05, widths=["*mlp*"])], when=growkit.every(epochs=1)
    )
    trainer = pl.Trainer(
        max_epochs=3,
        callbacks=[growth],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    [before] = trainer.validate(task, data, verbose=False)
    assert before["val_loss"] == pytest.approx(math.log(len(data.vocabulary)), abs=0.5), "nats per character"
    trainer.fit(task, data)
    after = trainer.callback_metrics
    assert {"train_loss", "val_loss"} <= after.keys()
    assert after["val_loss"] < 0.7 * before["val_loss"]
    assert sum(block.mlp.hidden.out_features for block in task.network.blocks) == 8 + 4 + 6
    assert all(block.attention.inputs.out_features == 48 for block in task.network.blocks)
