"""Configuration objects follow where a model built from them has the shapes of the grown one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import growkit
from growkit import SurgeryError, Widen


class Config:
    def __init__(self, hidden: int, middle: int, heads: int, layers: int = 2) -> None:
        self.hidden, self.middle, self.heads, self.layers, self.words = hidden, middle, heads, layers, 7


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(config.hidden, config.middle), nn.Linear(config.middle, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.words, config.hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.head = nn.Linear(config.hidden, config.words)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


TOKENS = torch.tensor([[1, 2, 3], [0, 6, 6]])


def shapes(model: nn.Module) -> dict:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def test_a_field_follows_when_all_layers_have_grown_alike():
    model = Model(Config(6, 4, 3))
    growkit.apply(model, [Widen("layers.0.up", (0, 1)), Widen("layers.1.up", (2, 2))], example=(TOKENS,))
    assert vars(model.config) == {"hidden": 6, "middle": 6, "heads": 3, "layers": 2, "words": 7}
    assert shapes(Model(model.config)) == shapes(model)


def test_no_field_follows_when_layers_differ():
    model = Model(Config(6, 4, 3))
    growkit.apply(model, Widen("layers.0.up", (0, 1)), example=(TOKENS,))
    assert vars(model.config) == {"hidden": 6, "middle": 4, "heads": 3, "layers": 2, "words": 7}


def test_fields_that_hold_the_same_number_are_told_apart():
    model = Model(Config(4, 4, 4))
    growkit.apply(model, Widen("embed", (0, 3)), example=(TOKENS,))
    assert vars(model.config) == {"hidden": 6, "middle": 4, "heads": 4, "layers": 2, "words": 7}


def test_fields_come_back_when_the_edit_fails():
    model = Model(Config(6, 4, 3))
    before = dict(vars(model.config))

    def refuse(_: object) -> None:
        raise SurgeryError("no", seen="", expected="", advice="")

    operation = growkit.surgery.Operation(growkit.trace(model, TOKENS), (TOKENS,))
    with pytest.raises(SurgeryError):
        operation.perform(Widen("embed", (0,)), then=refuse)
    assert vars(model.config) == before


def test_models_of_hugging_face_can_be_built_again_from_their_configuration():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 13, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20}
    config = transformers.BertConfig(num_hidden_layers=2, max_position_embeddings=16, **sizes)
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    tokens = {"input_ids": torch.randint(13, (2, 5))}
    structure = growkit.trace(model, **tokens)
    edits = [Widen(width.name, range(width.size // 2)) for width in structure.growable if width.size == 20]
    assert len(edits) == 2
    before = model(**tokens).last_hidden_state
    growkit.apply(model, edits, example=tokens)
    assert model.config.intermediate_size == 30
    again = type(model)(model.config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.allclose(again(**tokens).last_hidden_state, before, atol=1e-5)


def test_nothing_follows_where_another_setting_has_the_same_shapes():
    class Split(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.config = config
            self.body = nn.Linear(3, config.hidden * config.middle)
            self.head = nn.Linear(config.hidden * config.middle, 2)

        def forward(self, x):
            return self.head(self.body(x))

    model = Split(Config(3, 2, 4))
    growkit.apply(model, Widen("body", range(6)), example=(torch.randn(2, 3),))
    assert vars(model.config) == {"hidden": 3, "middle": 2, "heads": 4, "layers": 2, "words": 7}


def test_nothing_follows_where_a_buffer_changed_that_is_not_saved():
    class Table(Model):
        def __init__(self, config):
            super().__init__(config)
            self.register_buffer("table", torch.rand(config.hidden), persistent=False)

        def forward(self, tokens):
            return self.head(self.embed(tokens) * self.table)

    model = Table(Config(6, 4, 3, layers=0))
    growkit.apply(model, Widen("embed", (0, 1)), example=(TOKENS,))
    assert model.config.hidden == 6


@pytest.mark.parametrize("kept", ["attribute", "unsaved buffer"])
def test_nothing_follows_where_a_model_built_anew_would_scale_by_another_root(kept):
    class Scaled(Model):
        def __init__(self, config: Config) -> None:
            super().__init__(config)
            if kept == "attribute":
                self.root = config.hidden**0.5
            else:
                self.register_buffer("root", torch.tensor(config.hidden**0.5), persistent=False)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.layers[0](self.layers[1](self.embed(tokens) * self.root)))

    model = Scaled(Config(6, 4, 3))
    growkit.apply(model, Widen("embed", (0, 1)), example=(TOKENS,))
    assert model.embed.embedding_dim == 8
    assert model.config.hidden == 6
    growkit.apply(model, [Widen("layers.0.up", (0, 1)), Widen("layers.1.up", (2, 2))], example=(TOKENS,))
    fresh = Scaled(Config(8, 6, 3))
    fresh.load_state_dict(model.state_dict())
    assert not torch.equal(fresh(TOKENS), model(TOKENS))


def test_unsaved_buffers_that_come_out_the_same_do_no_harm():
    class Positions(Model):
        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.register_buffer("ids", torch.arange(5), persistent=False)

    model = Positions(Config(6, 4, 3))
    growkit.apply(model, Widen("embed", (0, 1)), example=(TOKENS,))
    assert model.config.hidden == 8
