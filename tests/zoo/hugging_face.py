"""Architectures of the transformers library, built from tiny configurations; nothing is downloaded.

The library is imported when a network is built, not when this file is. What `grows` claims was checked by copying the
units by hand: a claim holds with the forward pass as it is, once the whole-number attributes of modules that repeat a
size follow. A "~" in front of a name stands for the layer that an architecture names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from zoo.architecture import Architecture

__all__ = ["ARCHITECTURES"]

LOOKED_UP = "looks its units up"
INPUT = "input"
OUTPUT = "output"
TIED = "looks"  # rows of an embedding whose transpose makes the logits
SQUEEZED = "drops it"  # the only unit of an axis that the output no longer has
ORDERED = "orders its units"  # the experts that a router chooses from
TAKEN = "has one entry to be repeated|is the output extent|takes one of its units"

WORDS, PLACES, CLASSES = 31, 17, 5


def network(model: str, config: str, **settings) -> Callable[[], nn.Module]:
    """A function that builds the model class of that name from the configuration class of that name."""

    def build() -> nn.Module:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**settings))

    return build


def architecture(name, build, inputs, longer=None, *, grows, stuck, layer="") -> Architecture:
    def full(axis: str) -> str:
        return axis.replace("~", layer)

    return Architecture(
        f"hugging face {name}",
        build,
        inputs,
        grows=tuple(map(full, grows.split())),
        stuck={full(axis): reason for axis, reason in stuck.items()},
        longer=longer,
    )


# ------------------------------------------------------------------ inputs

Inputs = Callable[[int], Mapping[str, Tensor]]


def words(batch: int, length: int) -> Tensor:
    return torch.randint(3, WORDS, (batch, length))


def text(length: int) -> Inputs:
    return lambda n: {"input_ids": words(n, length), "attention_mask": torch.ones(n, length, dtype=torch.long)}


def translation(source: int, target: int) -> Inputs:
    return lambda n: {**text(source)(n), "decoder_input_ids": words(n, target)}


def permuted(length: int) -> Inputs:
    """Each word sees the words that come before it in a random order."""

    def inputs(batch: int) -> Mapping[str, Tensor]:
        order = torch.rand(batch, length).argsort(1)
        return {
            "input_ids": words(batch, length),
            "token_type_ids": torch.randint(2, (batch, length)),
            "perm_mask": (order[:, :, None] <= order[:, None, :]).float(),
        }

    return inputs


def image(size: int) -> Inputs:
    return lambda n: {"pixel_values": torch.randn(n, 3, size, size)}


def captioned(length: int) -> Inputs:
    return lambda n: {**text(length)(n), **image(16)(n)}


def spectrum(target: int) -> Inputs:
    return lambda n: {"input_features": torch.randn(n, 9, 22), "decoder_input_ids": words(n, target)}


def sound(samples: int) -> Inputs:
    return lambda n: {"input_values": torch.randn(n, samples)}


# ------------------------------------------------------------------ configurations

VOCABULARY = {"vocab_size": WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 26, "initializer_range": 0.2}
ENCODER = {**VOCABULARY, **LAYERS, "hidden_size": 20, "max_position_embeddings": PLACES}
ROBERTA = {**ENCODER, "pad_token_id": 1, "bos_token_id": 0}
DECODER = {**ENCODER, "use_cache": False}
GROUPED = {**DECODER, "num_key_value_heads": 2, "head_dim": 6}
PARTIAL_ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
GPT = {**VOCABULARY, "n_layer": 2, "n_head": 4, "n_inner": 26, "n_positions": PLACES, "initializer_range": 0.2}
OPT = {
    **VOCABULARY,
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 26,
    "max_position_embeddings": PLACES,
    "init_std": 0.2,
    "use_cache": False,
}
FALCON = {
    **VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_hidden_size": 26,
    "initializer_range": 0.2,
    "use_cache": False,
}
MIXTRAL = {**GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2}
SEQ2SEQ = {
    **VOCABULARY,
    "d_model": 20,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 26,
    "decoder_ffn_dim": 28,
    "init_std": 0.2,
    "use_cache": False,
    "decoder_start_token_id": 1,
}
TRANSLATOR = {**SEQ2SEQ, "max_position_embeddings": PLACES, "forced_eos_token_id": 2}
VISION = {**LAYERS, "hidden_size": 20, "image_size": 16, "patch_size": 4, "num_labels": CLASSES}
STAGES = {"depths": (2, 2), "num_labels": CLASSES, "initializer_range": 0.2}

# ------------------------------------------------------------------ architectures

ENCODERS = [
    architecture(
        "bert",
        network("BertModel", "BertConfig", **ENCODER, attn_implementation="eager"),
        text(7),
        text(11),
        layer="encoder.layer.0.",
        grows="~intermediate.dense.weight[0] ~output.dense.weight[1] ~attention.self.query.weight[0] "
        "~attention.self.value.bias[0] ~attention.output.dense.weight[1]",
        stuck={
            "embeddings.word_embeddings.weight[0]": LOOKED_UP,
            "embeddings.word_embeddings.weight[1]": OUTPUT,
            "embeddings.position_embeddings.weight[0]": LOOKED_UP,
            "~output.LayerNorm.weight[0]": OUTPUT,
            "pooler.dense.weight[0]": OUTPUT,
        },
    ),
    architecture(
        "bert for masked words",
        network("BertForMaskedLM", "BertConfig", **ENCODER),
        text(7),
        text(11),
        layer="bert.encoder.layer.0.",
        grows="bert.embeddings.word_embeddings.weight[1] cls.predictions.transform.dense.weight[0] "
        "~output.LayerNorm.weight[0] ~intermediate.dense.weight[0] ~attention.self.key.weight[0] "
        "~attention.output.dense.weight[1]",
        stuck={
            "bert.embeddings.word_embeddings.weight[0]": TIED,
            "bert.embeddings.token_type_embeddings.weight[0]": LOOKED_UP,
            "cls.predictions.bias[0]": TIED,
        },
    ),
    architecture(
        "roberta",
        network("RobertaForMaskedLM", "RobertaConfig", **ROBERTA),
        text(7),
        text(11),
        layer="roberta.encoder.layer.1.",
        grows="roberta.embeddings.position_embeddings.weight[1] lm_head.dense.weight[0] lm_head.layer_norm.weight[0] "
        "~intermediate.dense.bias[0] ~attention.self.value.weight[0]",
        stuck={
            "roberta.embeddings.word_embeddings.weight[0]": TIED,
            "roberta.embeddings.position_embeddings.weight[0]": LOOKED_UP,
            "lm_head.bias[0]": TIED,
        },
    ),
    architecture(
        "distilbert",
        network(
            "DistilBertForMaskedLM",
            "DistilBertConfig",
            **VOCABULARY,
            dim=20,
            n_layers=2,
            n_heads=4,
            hidden_dim=26,
            max_position_embeddings=PLACES,
            initializer_range=0.2,
        ),
        text(7),
        text(11),
        layer="distilbert.transformer.layer.0.",
        grows="distilbert.embeddings.word_embeddings.weight[1] vocab_transform.weight[0] ~ffn.lin1.weight[0] "
        "~ffn.lin2.weight[1] ~attention.q_lin.weight[0] ~attention.out_lin.weight[1]",
        stuck={
            "distilbert.embeddings.word_embeddings.weight[0]": TIED,
            "distilbert.embeddings.position_embeddings.weight[0]": LOOKED_UP,
            "vocab_projector.bias[0]": TIED,
        },
    ),
    architecture(
        "electra",
        network("ElectraForPreTraining", "ElectraConfig", **ENCODER, embedding_size=14),
        text(7),
        text(11),
        layer="electra.encoder.layer.0.",
        grows="electra.embeddings.word_embeddings.weight[1] electra.embeddings_project.weight[1] "
        "electra.embeddings_project.weight[0] discriminator_predictions.dense.weight[0] ~intermediate.dense.weight[0] "
        "~attention.self.query.weight[0]",
        stuck={
            "electra.embeddings.word_embeddings.weight[0]": LOOKED_UP,
            "electra.embeddings.position_embeddings.weight[0]": LOOKED_UP,
            "discriminator_predictions.dense_prediction.weight[0]": SQUEEZED,
        },
    ),
    architecture(
        "albert",  # one layer used twice
        network("AlbertForMaskedLM", "AlbertConfig", **ENCODER, embedding_size=14),
        text(7),
        text(11),
        layer="albert.encoder.albert_layer_groups.0.albert_layers.0.",
        grows="albert.embeddings.word_embeddings.weight[1] predictions.dense.weight[0] "
        "albert.encoder.embedding_hidden_mapping_in.weight[0] ~ffn.weight[0] ~attention.query.weight[0] "
        "~attention.dense.weight[1]",
        stuck={
            "albert.embeddings.word_embeddings.weight[0]": TIED,
            "albert.embeddings.position_embeddings.weight[0]": LOOKED_UP,
            "predictions.bias[0]": TIED,
        },
    ),
    architecture(
        "deberta v2",  # with the settings of the published v3 models, and the convolution of the v2 models
        network(
            "DebertaV2ForMaskedLM",
            "DebertaV2Config",
            **ENCODER,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
            share_att_key=True,
            position_buckets=6,
            norm_rel_ebd="layer_norm",
            conv_kernel_size=3,
        ),
        text(7),
        text(11),
        layer="deberta.encoder.layer.0.",
        grows="deberta.embeddings.word_embeddings.weight[1] deberta.encoder.rel_embeddings.weight[1] "
        "deberta.encoder.conv.conv.weight[0] ~intermediate.dense.weight[0] ~attention.self.query_proj.weight[0] "
        "~attention.output.dense.weight[1]",
        stuck={
            "deberta.embeddings.word_embeddings.weight[0]": TIED,
            "deberta.encoder.rel_embeddings.weight[0]": LOOKED_UP,
            "cls.predictions.bias[0]": TIED,
        },
    ),
    architecture(
        "xlnet",  # heads and head size are axes of their own
        network(
            "XLNetLMHeadModel",
            "XLNetConfig",
            **VOCABULARY,
            d_model=20,
            n_layer=2,
            n_head=4,
            d_inner=26,
            use_mems_eval=False,
            initializer_range=0.2,
        ),
        permuted(7),
        permuted(11),
        layer="transformer.layer.0.",
        grows="~rel_attn.q[1] ~rel_attn.r[1] ~rel_attn.r_s_bias[0] ~rel_attn.o[1] ~rel_attn.k[2] ~ff.layer_1.weight[0]",
        stuck={
            "transformer.word_embedding.weight[0]": TIED,
            "~rel_attn.r[0]": "arange",  # meets positions computed from `d_model`
            "lm_loss.bias[0]": TIED,
        },
    ),
    architecture(
        "funnel",  # heads are read off the configuration, one for all layers
        network(
            "FunnelForMaskedLM",
            "FunnelConfig",
            **VOCABULARY,
            block_sizes=(1, 1),
            num_decoder_layers=1,
            d_model=20,
            n_head=4,
            d_head=6,
            d_inner=26,
        ),
        text(7),
        text(11),
        grows="funnel.encoder.blocks.0.0.ffn.linear_1.weight[0] funnel.encoder.blocks.1.0.ffn.linear_2.weight[1] "
        "funnel.decoder.layers.0.ffn.linear_1.bias[0]",
        stuck={
            "funnel.embeddings.word_embeddings.weight[0]": TIED,
            # Meets positions that are computed from `d_model`.
            "funnel.encoder.blocks.0.0.attention.r_kernel[0]": "numbers its units",
            "lm_head.bias[0]": TIED,
        },
    ),
]

DECODERS = [
    architecture(
        "gpt 2",
        network("GPT2LMHeadModel", "GPT2Config", **GPT, n_embd=20, use_cache=False),
        text(7),
        text(11),
        layer="transformer.h.0.",
        grows="transformer.wte.weight[1] transformer.ln_f.weight[0] ~mlp.c_fc.weight[1] ~mlp.c_proj.weight[0] "
        "~attn.c_attn.weight[1] ~attn.c_proj.weight[0]",
        stuck={"transformer.wte.weight[0]": TIED, "transformer.wpe.weight[0]": LOOKED_UP},
    ),
    architecture(
        "gpt neo",
        network(
            "GPTNeoForCausalLM",
            "GPTNeoConfig",
            **VOCABULARY,
            hidden_size=20,
            num_layers=2,
            num_heads=4,
            intermediate_size=26,
            max_position_embeddings=PLACES,
            attention_types=[[["global", "local"], 1]],
            window_size=4,
            initializer_range=0.2,
            use_cache=False,
        ),
        text(7),
        text(11),
        layer="transformer.h.1.",
        grows="transformer.wpe.weight[1] transformer.ln_f.weight[0] ~mlp.c_fc.weight[0] "
        "~attn.attention.k_proj.weight[0] ~attn.attention.out_proj.weight[1]",
        stuck={"transformer.wte.weight[0]": TIED, "transformer.wpe.weight[0]": LOOKED_UP},
    ),
    architecture(
        "gpt neox",
        network(
            "GPTNeoXForCausalLM", "GPTNeoXConfig", **{**DECODER, "hidden_size": 32}, rope_parameters=PARTIAL_ROTARY
        ),
        text(7),
        text(11),
        layer="gpt_neox.layers.0.",
        grows="gpt_neox.embed_in.weight[1] lm_head.weight[1] ~mlp.dense_h_to_4h.weight[0] "
        "~attention.query_key_value.weight[0] ~attention.dense.weight[1]",
        stuck={"gpt_neox.embed_in.weight[0]": LOOKED_UP, "lm_head.weight[0]": OUTPUT},
    ),
    architecture(
        "gpt j",
        network("GPTJForCausalLM", "GPTJConfig", **GPT, n_embd=24, rotary_dim=4, use_cache=False),
        text(7),
        text(11),
        layer="transformer.h.0.",
        grows="transformer.wte.weight[1] lm_head.weight[1] ~mlp.fc_in.weight[0] ~attn.q_proj.weight[0] "
        "~attn.out_proj.weight[1] transformer.rotary_emb.embed_positions[1]",
        stuck={"transformer.wte.weight[0]": LOOKED_UP, "lm_head.weight[0]": OUTPUT, "lm_head.bias[0]": OUTPUT},
    ),
    architecture(
        "opt",
        network("OPTForCausalLM", "OPTConfig", **OPT),
        text(7),
        text(11),
        layer="model.decoder.layers.0.",
        grows="model.decoder.embed_tokens.weight[1] model.decoder.final_layer_norm.weight[0] ~fc1.weight[0] "
        "~self_attn.q_proj.weight[0] ~self_attn.out_proj.weight[1]",
        stuck={
            "model.decoder.embed_tokens.weight[0]": TIED,
            "model.decoder.embed_positions.weight[0]": LOOKED_UP,
        },
    ),
    architecture(
        "opt 350m",  # norms behind the layers, and projections between embedding and layers
        network("OPTForCausalLM", "OPTConfig", **OPT, word_embed_proj_dim=14, do_layer_norm_before=False),
        text(7),
        text(11),
        layer="model.decoder.layers.0.",
        grows="model.decoder.embed_tokens.weight[1] model.decoder.project_out.weight[0] "
        "model.decoder.project_in.weight[0] ~fc2.weight[1] ~self_attn.v_proj.weight[0]",
        stuck={
            "model.decoder.embed_tokens.weight[0]": TIED,
            "model.decoder.embed_positions.weight[0]": LOOKED_UP,
        },
    ),
    architecture(
        "bloom",  # the slopes of a head depend on how many there are
        network(
            "BloomForCausalLM",
            "BloomConfig",
            **VOCABULARY,
            hidden_size=20,
            n_layer=2,
            n_head=4,
            initializer_range=0.2,
            use_cache=False,
        ),
        text(7),
        text(11),
        layer="transformer.h.0.",
        grows="transformer.word_embeddings.weight[1] transformer.ln_f.weight[0] ~mlp.dense_h_to_4h.weight[0] "
        "~mlp.dense_4h_to_h.weight[1]",
        stuck={"transformer.word_embeddings.weight[0]": TIED},
    ),
    architecture(
        "llama",
        network("LlamaForCausalLM", "LlamaConfig", **GROUPED),
        text(7),
        text(11),
        layer="model.layers.0.",
        grows="model.embed_tokens.weight[1] lm_head.weight[1] ~mlp.gate_proj.weight[0] ~self_attn.q_proj.weight[0] "
        "~self_attn.k_proj.weight[0] ~self_attn.o_proj.weight[1]",
        stuck={"model.embed_tokens.weight[0]": LOOKED_UP, "lm_head.weight[0]": OUTPUT},
    ),
    architecture(
        "llama, eager attention",
        network("LlamaForCausalLM", "LlamaConfig", **GROUPED, attn_implementation="eager"),
        text(7),
        text(11),
        layer="model.layers.1.",
        grows="model.norm.weight[0] ~input_layernorm.weight[0] ~mlp.up_proj.weight[0] ~mlp.down_proj.weight[1] "
        "~self_attn.v_proj.weight[0] ~self_attn.o_proj.weight[1]",
        stuck={"model.embed_tokens.weight[0]": LOOKED_UP, "lm_head.weight[0]": OUTPUT},
    ),
    architecture(
        "mistral",
        network("MistralForCausalLM", "MistralConfig", **GROUPED, sliding_window=4),
        text(7),
        text(11),
        layer="model.layers.0.",
        grows="model.embed_tokens.weight[1] ~mlp.up_proj.weight[0] ~self_attn.k_proj.weight[0] "
        "~self_attn.o_proj.weight[1]",
        stuck={"model.embed_tokens.weight[0]": LOOKED_UP, "lm_head.weight[0]": OUTPUT},
    ),
    architecture(
        "qwen 2",
        network("Qwen2ForCausalLM", "Qwen2Config", **GROUPED),
        text(7),
        text(11),
        layer="model.layers.0.",
        grows="model.embed_tokens.weight[1] ~mlp.gate_proj.weight[0] ~self_attn.q_proj.bias[0] "
        "~self_attn.k_proj.bias[0] ~self_attn.v_proj.weight[0]",
        stuck={"model.embed_tokens.weight[0]": LOOKED_UP, "lm_head.weight[0]": OUTPUT},
    ),
    architecture(
        "qwen 3",
        network("Qwen3ForCausalLM", "Qwen3Config", **GROUPED),
        text(7),
        text(11),
        layer="model.layers.0.",
        grows="model.embed_tokens.weight[1] ~mlp.gate_proj.weight[0] ~self_attn.q_proj.weight[0] "
        "~self_attn.k_proj.weight[0] ~self_attn.o_proj.weight[1]",
        stuck={"model.embed_tokens.weight[0]": LOOKED_UP, "lm_head.weight[0]": OUTPUT},
    ),
    architecture(
        "gemma",
        network("GemmaForCausalLM", "GemmaConfig", **GROUPED),
        text(7),
        text(11),
        layer="model.layers.0.",
        # The last norm multiplies by 1 + gain, and the gain makes up for what the tied head cannot share out.
        grows="model.embed_tokens.weight[1] model.norm.weight[0] "
        "~mlp.gate_proj.weight[0] ~mlp.down_proj.weight[1] ~self_attn.q_proj.weight[0] "
        "~self_attn.v_proj.weight[0] ~self_attn.o_proj.weight[1]",
        stuck={"model.embed_tokens.weight[0]": TIED},
    ),
    architecture(
        "phi",
        network(
            "PhiForCausalLM",
            "PhiConfig",
            **{**DECODER, "hidden_size": 32, "num_key_value_heads": 2},
            rope_parameters=PARTIAL_ROTARY,
        ),
        text(7),
        text(11),
        layer="model.layers.0.",
        grows="model.embed_tokens.weight[1] lm_head.weight[1] ~mlp.fc1.weight[0] ~self_attn.k_proj.weight[0] "
        "~self_attn.dense.weight[1]",
        stuck={
            "model.embed_tokens.weight[0]": LOOKED_UP,
            "lm_head.weight[0]": OUTPUT,
            "lm_head.bias[0]": OUTPUT,
        },
    ),
    architecture(
        "falcon 7b",  # one key and one value head, behind the query heads in the same rows
        network("FalconForCausalLM", "FalconConfig", **FALCON),
        text(7),
        text(11),
        layer="transformer.h.0.",
        grows="transformer.word_embeddings.weight[1] transformer.ln_f.weight[0] ~mlp.dense_h_to_4h.weight[0] "
        "~self_attention.query_key_value.weight[1] ~self_attention.query_key_value.weight[0] "
        "~self_attention.dense.weight[1] transformer.rotary_emb.inv_freq[0]",
        stuck={"transformer.word_embeddings.weight[0]": TIED},
    ),
    architecture(
        "falcon 40b",  # each group has its query heads, a key and a value head in consecutive rows
        network("FalconForCausalLM", "FalconConfig", **FALCON, new_decoder_architecture=True, num_kv_heads=2),
        text(7),
        text(11),
        layer="transformer.h.0.",
        grows="transformer.word_embeddings.weight[1] ~ln_attn.weight[0] ~ln_mlp.weight[0] "
        "~mlp.dense_4h_to_h.weight[1] ~self_attention.query_key_value.weight[0] ~self_attention.dense.weight[1] "
        "transformer.rotary_emb.inv_freq[0]",
        stuck={"transformer.word_embeddings.weight[0]": TIED},
    ),
    architecture(
        "mixtral",
        network("MixtralForCausalLM", "MixtralConfig", **MIXTRAL, experts_implementation="eager"),
        text(7),
        text(11),
        layer="model.layers.0.",
        grows="model.embed_tokens.weight[1] ~mlp.gate.weight[1] ~mlp.experts.gate_up_proj[1] "
        "~mlp.experts.down_proj[2] ~self_attn.k_proj.weight[0] ~self_attn.o_proj.weight[1]",
        stuck={
            "model.embed_tokens.weight[0]": LOOKED_UP,
            "lm_head.weight[0]": OUTPUT,
            "~mlp.gate.weight[0]": ORDERED,
            "~mlp.experts.down_proj[0]": TAKEN,
        },
    ),
    architecture(
        "mixtral, batched experts",
        network("MixtralForCausalLM", "MixtralConfig", **MIXTRAL, experts_implementation="batched_mm"),
        text(7),
        text(11),
        layer="model.layers.0.",
        grows="lm_head.weight[1] ~mlp.experts.gate_up_proj[2] ~mlp.experts.gate_up_proj[1] ~mlp.experts.down_proj[2]",
        stuck={
            "lm_head.weight[0]": OUTPUT,
            "~mlp.gate.weight[0]": ORDERED,
            "~mlp.experts.gate_up_proj[0]": LOOKED_UP,
        },
    ),
    architecture(
        "mamba",
        network(
            "MambaForCausalLM",
            "MambaConfig",
            **VOCABULARY,
            hidden_size=20,
            state_size=5,
            num_hidden_layers=2,
            time_step_rank=3,
            use_cache=False,
        ),
        text(7),
        text(11),
        layer="backbone.layers.0.mixer.",
        grows="backbone.embeddings.weight[1] ~in_proj.weight[0] ~out_proj.weight[1] ~D[0] ~A_log[1] ~dt_proj.weight[1]",
        stuck={"backbone.embeddings.weight[0]": TIED, "~conv1d.weight[2]": "kernel|slides"},
    ),
    architecture(
        "rwkv",
        network(
            "RwkvForCausalLM",
            "RwkvConfig",
            **VOCABULARY,
            context_length=PLACES,
            hidden_size=20,
            num_hidden_layers=2,
            attention_hidden_size=24,
            intermediate_size=26,
            use_cache=False,
        ),
        lambda n: {"input_ids": words(n, 7)},
        lambda n: {"input_ids": words(n, 11)},
        layer="rwkv.blocks.0.",
        grows="rwkv.embeddings.weight[1] head.weight[1] ~attention.key.weight[0] ~attention.time_decay[0] "
        "~attention.output.weight[1] ~feed_forward.key.weight[0]",
        stuck={"rwkv.embeddings.weight[0]": LOOKED_UP, "head.weight[0]": OUTPUT},
    ),
]

ENCODER_DECODERS = [  # each also returns what its encoder said
    architecture(
        "t5",
        network(
            "T5ForConditionalGeneration",
            "T5Config",
            **VOCABULARY,
            d_model=20,
            d_kv=6,
            d_ff=26,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            use_cache=False,
            decoder_start_token_id=0,
        ),
        translation(7, 6),
        translation(11, 8),
        layer="encoder.block.0.layer.",
        grows="~0.SelfAttention.q.weight[0] ~0.SelfAttention.o.weight[1] "
        "~0.SelfAttention.relative_attention_bias.weight[1] ~1.DenseReluDense.wi.weight[0] "
        "decoder.block.1.layer.1.EncDecAttention.k.weight[0] decoder.block.0.layer.2.DenseReluDense.wo.weight[1]",
        stuck={
            "shared.weight[0]": TIED,
            "shared.weight[1]": OUTPUT,
            "~0.SelfAttention.relative_attention_bias.weight[0]": LOOKED_UP,
            "encoder.final_layer_norm.weight[0]": OUTPUT,
        },
    ),
    architecture(
        "bart",
        network("BartForConditionalGeneration", "BartConfig", **TRANSLATOR),
        translation(7, 6),
        translation(11, 8),
        layer="model.decoder.layers.0.",
        grows="model.encoder.layers.0.fc1.weight[0] model.encoder.layers.0.self_attn.q_proj.weight[0] ~fc2.weight[1] "
        "~self_attn.v_proj.weight[0] ~encoder_attn.k_proj.weight[0] ~encoder_attn.out_proj.weight[1]",
        stuck={
            "model.shared.weight[0]": TIED,
            "model.shared.weight[1]": f"{OUTPUT}|takes one",  # to know the shape of the input
            "model.encoder.embed_positions.weight[0]": LOOKED_UP,
        },
    ),
    architecture(
        "marian",
        network("MarianMTModel", "MarianConfig", **TRANSLATOR, scale_embedding=True),
        translation(7, 6),
        translation(11, 8),
        layer="model.decoder.layers.1.",
        grows="model.encoder.layers.1.fc1.weight[0] ~fc1.weight[0] ~self_attn.k_proj.weight[0] "
        "~encoder_attn.q_proj.weight[0]",
        stuck={
            "model.shared.weight[0]": TIED,
            "model.shared.weight[1]": OUTPUT,
            "model.decoder.embed_positions.weight[0]": LOOKED_UP,
        },
    ),
    architecture(
        "pegasus",
        network("PegasusForConditionalGeneration", "PegasusConfig", **TRANSLATOR, scale_embedding=True),
        translation(7, 6),
        translation(11, 8),
        layer="model.decoder.layers.0.",
        grows="model.encoder.layers.0.fc2.weight[1] ~fc1.weight[0] ~self_attn.q_proj.bias[0] "
        "~encoder_attn.v_proj.weight[0]",
        stuck={
            "model.shared.weight[0]": TIED,
            "model.shared.weight[1]": OUTPUT,
            "model.encoder.layer_norm.weight[0]": OUTPUT,
        },
    ),
    architecture(
        "whisper",  # encoder and decoder share no embedding: the decoder's residual stream can grow
        network(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            **SEQ2SEQ,
            num_mel_bins=9,
            max_source_positions=11,
            max_target_positions=PLACES,
        ),
        spectrum(6),
        spectrum(8),
        layer="model.decoder.layers.0.",
        grows="model.encoder.conv1.weight[0] model.encoder.layers.0.fc1.weight[0] "
        "model.decoder.embed_tokens.weight[1] model.decoder.layer_norm.weight[0] ~self_attn.q_proj.weight[0] "
        "~encoder_attn.out_proj.weight[1]",
        stuck={
            "model.encoder.conv1.weight[1]": INPUT,
            "model.encoder.conv2.weight[0]": OUTPUT,
            "model.encoder.embed_positions.weight[0]": "numbers its units",
            "model.decoder.embed_tokens.weight[0]": TIED,
            "model.decoder.embed_positions.weight[0]": LOOKED_UP,
        },
    ),
]

SOUND = [
    architecture(
        "wav2vec 2",
        network(
            "Wav2Vec2ForCTC",
            "Wav2Vec2Config",
            **VOCABULARY,
            **LAYERS,
            hidden_size=20,
            conv_dim=(6, 8, 10),
            conv_stride=(5, 2, 2),
            conv_kernel=(10, 3, 2),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            apply_spec_augment=False,
            mask_time_prob=0.0,
            layerdrop=0.0,
        ),
        sound(400),
        sound(500),
        layer="wav2vec2.encoder.layers.0.",
        # A group norm of the first convolution has as many groups as units.
        grows="wav2vec2.feature_extractor.conv_layers.0.conv.weight[0] "
        "wav2vec2.feature_extractor.conv_layers.1.conv.weight[0] wav2vec2.feature_projection.projection.weight[1] "
        "~feed_forward.intermediate_dense.weight[0] ~attention.k_proj.weight[0] ~attention.out_proj.weight[1]",
        stuck={"lm_head.weight[0]": OUTPUT, "lm_head.bias[0]": OUTPUT},
    ),
]

IMAGES = [
    architecture(
        "vit",
        network("ViTForImageClassification", "ViTConfig", **VISION),
        image(16),
        layer="vit.layers.0.",
        grows="vit.embeddings.cls_token[2] vit.embeddings.position_embeddings[2] "
        "vit.embeddings.patch_embeddings.projection.weight[0] ~mlp.fc1.weight[0] ~attention.q_proj.weight[0] "
        "~attention.o_proj.weight[1]",
        stuck={
            "vit.embeddings.patch_embeddings.projection.weight[1]": INPUT,
            "vit.embeddings.position_embeddings[1]": TAKEN,
            "classifier.weight[0]": OUTPUT,
        },
    ),
    architecture(
        "deit",
        network("DeiTForImageClassification", "DeiTConfig", **VISION),
        image(16),
        layer="deit.layers.1.",
        grows="deit.embeddings.distillation_token[2] deit.layernorm.weight[0] classifier.weight[1] "
        "~mlp.fc2.weight[1] ~attention.k_proj.weight[0] ~attention.v_proj.bias[0]",
        stuck={
            "deit.embeddings.patch_embeddings.projection.weight[1]": INPUT,
            "deit.embeddings.position_embeddings[1]": TAKEN,
            "classifier.bias[0]": OUTPUT,
        },
    ),
    architecture(
        "beit",
        network("BeitForImageClassification", "BeitConfig", **VISION, use_relative_position_bias=True),
        image(16),
        layer="beit.layers.0.",
        grows="beit.embeddings.cls_token[2] ~lambda_1[0] beit.pooler.layernorm.weight[0] ~mlp.fc1.weight[0] "
        "~attention.q_proj.weight[0] ~relative_position_bias.relative_position_bias_table[1]",
        stuck={
            "beit.embeddings.patch_embeddings.projection.weight[1]": INPUT,
            "~relative_position_bias.relative_position_bias_table[0]": "aten.(slice|index) ",
            "classifier.weight[0]": OUTPUT,
        },
    ),
    architecture(
        "swin",
        network(
            "SwinForImageClassification",
            "SwinConfig",
            **STAGES,
            image_size=24,
            patch_size=2,
            embed_dim=12,
            num_heads=(2, 4),
            window_size=4,
            mlp_ratio=1.5,
        ),
        image(24),
        image(28),
        layer="swin.encoder.layers.0.",
        grows="swin.embeddings.patch_embeddings.projection.weight[0] ~downsample.reduction.weight[0] "
        "~blocks.0.mlp.fc1.weight[0] ~blocks.0.attention.q_proj.weight[0] ~blocks.0.attention.o_proj.weight[1] "
        "~blocks.1.attention.relative_position_bias.relative_position_bias_table[1]",
        stuck={
            "swin.embeddings.patch_embeddings.projection.weight[1]": INPUT,
            "~blocks.0.attention.relative_position_bias.relative_position_bias_table[0]": LOOKED_UP,
            "classifier.weight[0]": OUTPUT,
        },
    ),
    architecture(
        "convnext",
        network(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            **STAGES,
            num_stages=2,
            hidden_sizes=(6, 10),
            layer_scale_init_value=0.5,
        ),
        image(16),
        image(24),
        layer="convnext.encoder.stages.0.layers.0.",
        grows="convnext.embeddings.patch_embeddings.weight[0] convnext.encoder.stages.1.downsampling_layer.1.weight[0] "
        "~layer_scale_parameter[0] ~dwconv.weight[0] ~pwconv1.weight[0] ~pwconv2.weight[1]",
        stuck={"convnext.embeddings.patch_embeddings.weight[1]": INPUT, "classifier.weight[0]": OUTPUT},
    ),
    architecture(
        "convnext v2",
        network("ConvNextV2ForImageClassification", "ConvNextV2Config", **STAGES, num_stages=2, hidden_sizes=(6, 10)),
        image(16),
        image(24),
        layer="convnextv2.encoder.stages.1.layers.0.",
        grows="convnextv2.embeddings.patch_embeddings.weight[0] classifier.weight[1] ~dwconv.weight[0] "
        "~pwconv1.weight[0] ~grn.weight[3] ~pwconv2.weight[1]",
        stuck={"convnextv2.embeddings.patch_embeddings.weight[1]": INPUT, "classifier.weight[0]": OUTPUT},
    ),
    architecture(
        "resnet",
        network(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=6,
            hidden_sizes=(12, 20),
            depths=(2, 2),
            num_labels=CLASSES,
        ),
        image(32),
        image(40),
        layer="resnet.encoder.stages.0.layers.0.",
        grows="resnet.embedder.embedder.convolution.weight[0] ~shortcut.convolution.weight[0] "
        "~layer.0.convolution.weight[0] ~layer.1.convolution.weight[0] ~layer.2.normalization.weight[0] "
        "classifier.1.weight[1]",
        stuck={"resnet.embedder.embedder.convolution.weight[1]": INPUT, "classifier.1.weight[0]": OUTPUT},
    ),
    architecture(
        "resnet with basic blocks",
        network(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=6,
            hidden_sizes=(8, 12),
            depths=(2, 2),
            layer_type="basic",
            num_labels=CLASSES,
        ),
        image(32),
        image(40),
        layer="resnet.encoder.stages.1.layers.1.",
        grows="resnet.embedder.embedder.normalization.weight[0] ~layer.0.convolution.weight[0] "
        "~layer.1.convolution.weight[0]",
        stuck={"resnet.embedder.embedder.convolution.weight[1]": INPUT, "classifier.1.bias[0]": OUTPUT},
    ),
    architecture(
        "mobilenet v2",
        network(
            "MobileNetV2ForImageClassification",
            "MobileNetV2Config",
            depth_multiplier=0.1,
            depth_divisible_by=2,
            min_depth=4,
            finegrained_output=False,
            num_labels=CLASSES,
            initializer_range=0.3,
        ),
        image(32),
        image(40),
        layer="mobilenet_v2.layer.2.",
        grows="mobilenet_v2.conv_stem.first_conv.convolution.weight[0] ~expand_1x1.convolution.weight[0] "
        "~conv_3x3.convolution.weight[0] ~reduce_1x1.convolution.weight[0] "
        "mobilenet_v2.conv_1x1.convolution.weight[0] classifier.weight[1]",
        stuck={
            "mobilenet_v2.conv_stem.first_conv.convolution.weight[1]": f"{INPUT}|pad",
            "classifier.weight[0]": OUTPUT,
        },
    ),
    architecture(
        "segformer",  # what a sequence reduction makes is as wide as what it takes: the forward pass says so
        network(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            **STAGES,
            num_encoder_blocks=2,
            sr_ratios=(2, 1),
            hidden_sizes=(8, 12),
            patch_sizes=(7, 3),
            strides=(4, 2),
            num_attention_heads=(2, 4),
            mlp_ratios=(2, 3),
            decoder_hidden_size=10,
        ),
        image(32),
        image(40),
        layer="segformer.stages.0.",
        grows="segformer.stages.1.patch_embeddings.proj.weight[0] ~blocks.0.mlp.dwconv.dwconv.weight[0] "
        "~blocks.0.mlp.fc2.weight[1] ~blocks.0.attention.k_proj.weight[0] "
        "decode_head.linear_projections.0.proj.weight[0] decode_head.linear_fuse.weight[0]",
        stuck={"~patch_embeddings.proj.weight[1]": INPUT, "decode_head.classifier.weight[0]": OUTPUT},
    ),
    architecture(
        "dpt",  # likewise its projections of the read-out
        network(
            "DPTForDepthEstimation",
            "DPTConfig",
            **VISION,
            backbone_out_indices=(0, 1),
            neck_hidden_sizes=(6, 10),
            reassemble_factors=(2, 0.5),
            neck_ignore_stages=(),
            fusion_hidden_size=8,
        ),
        image(16),
        layer="dpt.encoder.layer.0.",
        grows="~intermediate.dense.weight[0] ~attention.attention.query.weight[0] ~attention.output.dense.weight[1] "
        "neck.reassemble_stage.layers.0.projection.weight[0] neck.reassemble_stage.layers.0.resize.weight[1] "
        "head.head.0.weight[0]",
        stuck={
            "dpt.embeddings.patch_embeddings.projection.weight[1]": INPUT,
            "dpt.embeddings.position_embeddings[1]": "as the number [14]",
            "head.head.4.weight[0]": SQUEEZED,
        },
    ),
    architecture(
        "clip",  # returns every hidden state
        network(
            "CLIPModel",
            "CLIPConfig",
            projection_dim=14,
            text_config=ENCODER,
            vision_config={**LAYERS, "hidden_size": 24, "intermediate_size": 28, "image_size": 16, "patch_size": 4},
        ),
        captioned(7),
        captioned(11),
        layer="text_model.encoder.layers.0.",
        grows="~mlp.fc1.weight[0] ~self_attn.q_proj.weight[0] ~self_attn.out_proj.weight[1] "
        "vision_model.encoder.layers.1.mlp.fc2.weight[1] vision_model.encoder.layers.1.self_attn.v_proj.weight[0]",
        stuck={
            "text_projection.weight[0]": OUTPUT,
            "text_model.embeddings.token_embedding.weight[0]": LOOKED_UP,
            "text_model.embeddings.token_embedding.weight[1]": f"{OUTPUT}|index",
            "vision_model.embeddings.class_embedding[0]": OUTPUT,
            "vision_model.embeddings.patch_embedding.weight[1]": INPUT,
        },
    ),
]

ARCHITECTURES: list[Architecture] = [*ENCODERS, *DECODERS, *ENCODER_DECODERS, *SOUND, *IMAGES]
