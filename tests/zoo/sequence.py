"""Architectures for sequences: transformers, recurrences, state spaces, convolutions over time, mixtures of experts."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

from zoo.architecture import Architecture

MODEL = "embed.weight[1] embed.weight[0]=looks head.weight[0]=output"  # of a `LanguageModel`


def zoo(name, build, inputs, longer, axes, batches=(2, 3)):
    """Make an architecture from its axes, stuck ones with a reason: "hidden.weight[0] head.weight[0]=output"."""
    grows = tuple(axis for axis in axes.split() if "=" not in axis)
    stuck = dict(axis.split("=") for axis in axes.split() if "=" in axis)
    return Architecture(name, build, inputs, grows, stuck, batches, longer)


def tokens(vocabulary, *shape):
    return lambda n: (torch.randint(vocabulary, (n, *shape)),)


def reals(*shapes):
    return lambda n: tuple(torch.randn(n, *shape) for shape in shapes)


def mlp(*sizes, act=nn.ReLU):
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers[:-1])


class Net(nn.Module):
    def __init__(self, forward, **parts):
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs)


class Residual(nn.Module):
    def __init__(self, dim, fn, norm=nn.LayerNorm):
        super().__init__()
        self.norm, self.fn = norm(dim), fn

    def forward(self, x):
        return x + self.fn(self.norm(x))


class LanguageModel(nn.Module):
    def __init__(self, vocab, dim, *layers, norm=nn.LayerNorm):
        super().__init__()
        self.embed, self.layers = nn.Embedding(vocab, dim), nn.ModuleList(layers)
        self.norm, self.head = norm(dim), nn.Linear(dim, vocab, bias=False)

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def model_of(vocab, dim, *layers, norm=nn.LayerNorm):
    return lambda: LanguageModel(vocab, dim, *(Residual(dim, layer(), norm) for layer in layers), norm=norm)


class CausalSelfAttention(nn.Module):
    def __init__(self, n_embd, n_head, block_size):
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=False)
        self.n_head, self.n_embd = n_head, n_embd

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        q = q.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        v = v.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))


class MaskedSelfAttention(nn.Module):
    def __init__(self, n_embd, n_head, block_size):
        super().__init__()
        self.key, self.query, self.value, self.proj = (nn.Linear(n_embd, n_embd) for _ in range(4))
        mask = torch.tril(torch.ones(block_size, block_size))
        self.register_buffer("bias", mask.view(1, 1, block_size, block_size))
        self.n_head = n_head

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.query(x), self.key(x), self.value(x)
        q, k, v = (y.view(b, t, self.n_head, c // self.n_head).transpose(1, 2) for y in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        return self.proj(y.transpose(1, 2).contiguous().view(b, t, c))


class MultiQueryAttention(nn.Module):
    """One projection: the query heads, then one key and one value head; pairs of neighbours are rotated."""

    def __init__(self, dim, heads, head_size, length):
        super().__init__()
        self.qkv, self.out = nn.Linear(dim, (heads + 2) * head_size), nn.Linear(heads * head_size, dim)
        self.heads = heads
        angles = torch.outer(torch.arange(length), 10.0 ** -torch.arange(head_size // 2))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotate(self, x):
        cos, sin = self.cos[: x.shape[1], None, :], self.sin[: x.shape[1], None, :]
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)

    def forward(self, x):
        b, t, _ = x.shape
        qkv = self.qkv(x).view(b, t, self.heads + 2, -1)
        q, k, v = self.rotate(qkv[:, :, :-2]), self.rotate(qkv[:, :, -2:-1]), qkv[:, :, -1:]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        mask = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
        y = scores.masked_fill(mask, -torch.inf).softmax(-1) @ v  # one head of keys and values for all of queries
        return self.out(y.transpose(1, 2).flatten(2))


class GPT(nn.Module):
    def __init__(self, attention, vocab_size, n_embd, n_head, block_size, tied=False):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        mlps = (mlp(n_embd, 17, n_embd, act=nn.GELU) for _ in range(2))
        pairs = ((attention(n_embd, n_head, block_size), mlp) for mlp in mlps)
        self.h = nn.ModuleList([Residual(n_embd, part) for pair in pairs for part in pair])
        self.ln_f, self.lm_head = nn.LayerNorm(n_embd), nn.Linear(n_embd, vocab_size, bias=False)
        if tied:
            self.wte.weight = self.lm_head.weight

    def forward(self, idx):
        _, t = idx.size()
        pos = torch.arange(0, t, dtype=torch.long, device=idx.device)
        x = self.wte(idx) + self.wpe(pos)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x)[:, [-1], :])


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps))


class GatedMLP(nn.Module):
    def __init__(self, dim=14, hidden=11, act=F.silu):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down_proj, self.act_fn = nn.Linear(hidden, dim, bias=False), act

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def rotate_half(x):
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def repeat_kv(x, n_rep):
    batch, num_key_value_heads, slen, head_dim = x.shape
    x = x[:, :, None, :, :].expand(batch, num_key_value_heads, n_rep, slen, head_dim)
    return x.reshape(batch, num_key_value_heads * n_rep, slen, head_dim)


class RotaryEmbedding(nn.Module):
    def __init__(self, dim, base=10000.0):
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / (base ** (torch.arange(0, dim, 2).float() / dim)))

    def forward(self, x):
        t = torch.arange(x.shape[-2], device=x.device, dtype=self.inv_freq.dtype)
        freqs = torch.outer(t, self.inv_freq)
        emb = torch.cat((freqs, freqs), dim=-1)
        return emb.cos(), emb.sin()


class LlamaAttention(nn.Module):
    def __init__(self, hidden_size=14, num_heads=4, num_key_value_heads=2, head_dim=6):
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.head_dim = num_heads, num_key_value_heads, head_dim
        self.num_key_value_groups = num_heads // num_key_value_heads
        self.q_proj = nn.Linear(hidden_size, num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, num_key_value_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, num_key_value_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(num_heads * head_dim, hidden_size, bias=False)
        self.rotary_emb = RotaryEmbedding(head_dim)

    def forward(self, x):
        bsz, q_len, _ = x.size()
        q = self.q_proj(x).view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(bsz, q_len, self.num_key_value_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(bsz, q_len, self.num_key_value_heads, self.head_dim).transpose(1, 2)
        cos, sin = self.rotary_emb(v)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        k, v = repeat_kv(k, self.num_key_value_groups), repeat_kv(v, self.num_key_value_groups)
        weights = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.head_dim)
        mask = torch.full((q_len, q_len), torch.finfo(x.dtype).min, dtype=x.dtype).triu(1)
        out = torch.matmul(F.softmax(weights + mask, dim=-1), v)
        return self.o_proj(out.transpose(1, 2).contiguous().reshape(bsz, q_len, -1))


def precompute_freqs_cis(dim, end, theta=10000.0):
    freqs = 1.0 / (theta ** (torch.arange(0, dim, 2)[: (dim // 2)].float() / dim))
    freqs = torch.outer(torch.arange(end), freqs)
    return torch.polar(torch.ones_like(freqs), freqs)


def apply_rotary_emb(x, freqs_cis):
    x_ = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    assert freqs_cis.shape == (x_.shape[1], x_.shape[-1])
    shape = [d if i == 1 or i == x_.ndim - 1 else 1 for i, d in enumerate(x_.shape)]
    return torch.view_as_real(x_ * freqs_cis.view(*shape)).flatten(3)


class LlamaReferenceAttention(nn.Module):
    def __init__(self, dim, n_heads):
        super().__init__()
        self.n_heads, self.head_dim = n_heads, dim // n_heads
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x, freqs_cis, mask):
        bsz, seqlen, _ = x.shape
        xq, xk, xv = (w(x).view(bsz, seqlen, self.n_heads, self.head_dim) for w in (self.wq, self.wk, self.wv))
        xq, xk = (apply_rotary_emb(y, freqs_cis).transpose(1, 2) for y in (xq, xk))
        xv = xv.transpose(1, 2)
        scores = torch.matmul(xq, xk.transpose(2, 3)) / math.sqrt(self.head_dim)
        scores = F.softmax(scores + mask, dim=-1)
        return self.wo(torch.matmul(scores, xv).transpose(1, 2).contiguous().view(bsz, seqlen, -1))


class LlamaReference(nn.Module):
    def __init__(self, vocab=13, dim=16, n_heads=4, hidden=11, max_seq_len=8):
        super().__init__()
        self.tok_embeddings, self.attention_norm = nn.Embedding(vocab, dim), RMSNorm(dim)
        self.attention = LlamaReferenceAttention(dim, n_heads)
        self.feed_forward = Residual(dim, GatedMLP(dim, hidden), RMSNorm)
        self.norm, self.output = RMSNorm(dim), nn.Linear(dim, vocab, bias=False)
        self.freqs_cis = precompute_freqs_cis(dim // n_heads, max_seq_len * 2)

    def forward(self, tokens):
        _, seqlen = tokens.shape
        h = self.tok_embeddings(tokens)
        freqs_cis = self.freqs_cis.to(h.device)[:seqlen]
        mask = torch.triu(torch.full((seqlen, seqlen), float("-inf"), device=tokens.device), diagonal=1).type_as(h)
        h = h + self.attention(self.attention_norm(h), freqs_cis, mask)
        return self.output(self.norm(self.feed_forward(h)))


class ParallelMultiQuery(nn.Module):
    def __init__(self, dim=14, heads=3, dim_head=5, ff_inner=11):
        super().__init__()
        attn_inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.fused_dims = (attn_inner, dim_head, dim_head, 2 * ff_inner)
        self.fused_proj = nn.Linear(dim, sum(self.fused_dims), bias=False)
        self.attn_out, self.ff_out = nn.Linear(attn_inner, dim, bias=False), nn.Linear(ff_inner, dim, bias=False)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v, ff = self.fused_proj(x).split(self.fused_dims, dim=-1)
        q = q.view(b, n, self.heads, -1).permute(0, 2, 1, 3) * self.scale
        sim = torch.einsum("bhid,bjd->bhij", q, k)
        sim = sim.masked_fill(torch.ones((n, n), dtype=torch.bool).triu(1), -torch.finfo(sim.dtype).max)
        out = torch.einsum("bhij,bjd->bhid", sim.softmax(dim=-1), v)
        up, gate = ff.chunk(2, dim=-1)
        return self.attn_out(out.permute(0, 2, 1, 3).reshape(b, n, -1)) + self.ff_out(F.silu(gate) * up)


class BertLayer(nn.Module):
    def __init__(self, hidden, heads, inner):
        super().__init__()
        self.heads, self.head_size, self.all_head_size = heads, hidden // heads, hidden
        self.query, self.key, self.value, self.dense = (nn.Linear(hidden, hidden) for _ in range(4))
        self.intermediate, self.output = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.attention_norm, self.output_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def forward(self, x, mask):
        shape = (*x.size()[:-1], self.heads, self.head_size)
        q, k, v = (layer(x).view(*shape).permute(0, 2, 1, 3) for layer in (self.query, self.key, self.value))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.head_size) + mask
        context = torch.matmul(F.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous()
        context = context.view(*context.size()[:-2], self.all_head_size)
        x = self.attention_norm(self.dense(context) + x)
        return self.output_norm(self.output(F.gelu(self.intermediate(x))) + x)


class Bert(nn.Module):
    def __init__(self, vocab=29, hidden=12, heads=3, inner=17, max_positions=13):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab, hidden, padding_idx=0)
        self.position_embeddings, self.token_type_embeddings = (nn.Embedding(n, hidden) for n in (max_positions, 2))
        self.register_buffer("position_ids", torch.arange(max_positions).expand((1, -1)), persistent=False)
        self.norm, self.layer = nn.LayerNorm(hidden, eps=1e-12), BertLayer(hidden, heads, inner)
        self.pooler, self.seq_relationship = nn.Linear(hidden, hidden), nn.Linear(hidden, 2)
        self.transform, self.transform_norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        self.decoder, self.bias = nn.Linear(hidden, vocab, bias=False), nn.Parameter(torch.zeros(vocab))
        self.decoder.weight = self.word_embeddings.weight

    def forward(self, input_ids, token_type_ids, attention_mask):
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        x = self.norm(x + self.position_embeddings(self.position_ids[:, : input_ids.size(1)]))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        x = self.layer(x, mask)
        scores = self.decoder(self.transform_norm(F.gelu(self.transform(x)))) + self.bias
        return {"prediction": scores, "relationship": self.seq_relationship(torch.tanh(self.pooler(x[:, 0])))}


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(17, 12), nn.Embedding(19, 12)
        self.transformer = nn.Transformer(12, 2, 1, 1, 23, batch_first=True)
        self.generator = nn.Linear(12, 19)

    def forward(self, src, tgt):
        src, tgt = self.source(src), self.target(tgt)
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1), device=tgt.device, dtype=tgt.dtype)
        return self.generator(self.transformer(src, tgt, tgt_mask=mask))


class TutorialTransformer(nn.Module):
    def __init__(self, ntoken=19, d_model=10, nhead=2, d_hid=13, max_len=16):
        super().__init__()
        angle = torch.arange(max_len).unsqueeze(1) * torch.exp(torch.arange(0, d_model, 2) * (-9.21 / d_model))
        pe = torch.zeros(max_len, 1, d_model)
        pe[:, 0, 0::2], pe[:, 0, 1::2] = torch.sin(angle), torch.cos(angle)
        self.register_buffer("pe", pe)
        self.embedding, self.linear, self.d_model = nn.Embedding(ntoken, d_model), nn.Linear(d_model, ntoken), d_model
        layer = nn.TransformerEncoderLayer(d_model, nhead, d_hid, 0.1)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, src):
        x = self.embedding(src) * math.sqrt(self.d_model)
        x = x + self.pe[: x.size(0)]
        mask = nn.Transformer.generate_square_subsequent_mask(len(src), dtype=x.dtype)
        return self.linear(self.encoder(x, mask))


class PaddedClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(17, 9)
        layer = nn.TransformerEncoderLayer(9, 3, 14, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(9), enable_nested_tensor=False)
        self.classifier = mlp(9, 7, 4)

    def forward(self, x, src_key_padding_mask):
        h = self.encoder(self.embedding(x), src_key_padding_mask=src_key_padding_mask)
        keep = (~src_key_padding_mask).unsqueeze(-1).to(h.dtype)
        return self.classifier((h * keep).sum(1) / keep.sum(1).clamp(min=1.0))


class Captioner(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.words = nn.Linear(5, 12), nn.Embedding(17, 12)
        self.positions = nn.Parameter(torch.randn(1, 9, 12) * 0.1)
        layer = nn.TransformerDecoderLayer(12, 4, 19, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2, nn.LayerNorm(12))
        self.head = nn.Linear(12, 17)

    def forward(self, regions, captions):
        x = self.words(captions) + self.positions[:, : captions.shape[1], :]
        causal = torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu(1)
        return self.head(self.decoder(x, self.features(regions), tgt_mask=causal))


class CrossModal(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(5, 12), nn.Sequential(nn.Linear(4, 7), nn.Tanh())
        self.attention = nn.MultiheadAttention(12, 3, kdim=7, vdim=6)
        self.head = nn.Linear(12, 3)

    def forward(self, text, audio, video):
        query, key = self.query(text).transpose(0, 1), self.key(audio).transpose(0, 1)
        out, weights = self.attention(query, key, video.transpose(0, 1))
        return self.head(out.transpose(0, 1)), weights


class RelativeAttention(nn.Module):
    def __init__(self, d_model=10, n_head=3, d_head=5):
        super().__init__()
        self.n_head, self.d_head, self.scale = n_head, d_head, 1 / d_head**0.5
        self.qkv_net, self.r_net = nn.Linear(d_model, 3 * n_head * d_head), nn.Linear(d_model, n_head * d_head)
        self.o_net = nn.Linear(n_head * d_head, d_model, bias=False)
        self.r_w_bias, self.r_r_bias = (nn.Parameter(torch.randn(n_head, d_head)) for _ in range(2))
        self.register_buffer("inv_freq", 1 / (10000 ** (torch.arange(0.0, d_model, 2.0) / d_model)))

    def _rel_shift(self, x):
        zero_pad = torch.zeros((x.size(0), 1, *x.size()[2:]), device=x.device, dtype=x.dtype)
        x_padded = torch.cat([zero_pad, x], dim=1)
        return x_padded.view(x.size(1) + 1, x.size(0), *x.size()[2:])[1:].view_as(x)

    def forward(self, w):
        b, t, _ = w.size()
        q, k, v = (head.view(b, t, self.n_head, self.d_head) for head in torch.chunk(self.qkv_net(w), 3, dim=-1))
        sinusoid = torch.outer(torch.arange(t - 1, -1, -1.0, dtype=w.dtype), self.inv_freq)
        r = self.r_net(torch.cat([sinusoid.sin(), sinusoid.cos()], dim=-1)).view(t, self.n_head, self.d_head)
        ac = torch.einsum("bind,bjnd->ijbn", (q + self.r_w_bias, k))
        bd = self._rel_shift(torch.einsum("bind,jnd->ijbn", (q + self.r_r_bias, r)))
        mask = torch.triu(torch.ones(t, t, dtype=torch.bool), 1)[:, :, None, None]
        score = ((ac + bd) * self.scale).masked_fill(mask, -float("inf"))
        vec = torch.einsum("ijbn,bjnd->bind", (F.softmax(score, dim=1), v))
        return self.o_net(vec.contiguous().view(b, t, self.n_head * self.d_head))


class LinformerAttention(nn.Module):
    def __init__(self, dim=14, seq_len=9, k=5, heads=3, dim_head=4):
        super().__init__()
        self.seq_len, self.heads, self.dim_head, self.k = seq_len, heads, dim_head, k
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, heads * dim_head, bias=False) for _ in range(3))
        self.proj_k, self.proj_v = (nn.Parameter(torch.randn(seq_len, k) * 0.3) for _ in range(2))
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, x):
        b, n, _ = x.shape
        assert n <= self.seq_len
        q = self.to_q(x).reshape(b, n, self.heads, -1).transpose(1, 2)
        keys = torch.einsum("bnd,nk->bkd", self.to_k(x), self.proj_k)
        values = torch.einsum("bnd,nk->bkd", self.to_v(x), self.proj_v)
        keys, values = (t.reshape(b, self.k, -1, self.dim_head).transpose(1, 2) for t in (keys, values))
        dots = torch.einsum("bhnd,bhkd->bhnk", q, keys) * (self.dim_head**-0.5)
        out = torch.einsum("bhnk,bhkd->bhnd", dots.softmax(dim=-1), values)
        return self.to_out(out.transpose(1, 2).reshape(b, n, -1))


class FNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.position = nn.Embedding(13, 8), nn.Embedding(16, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        self.ff = Residual(8, mlp(8, 11, 8, act=nn.GELU))

    def forward(self, x):
        x = self.embedding(x) + self.position(torch.arange(x.shape[1], device=x.device))
        x = self.ff(self.norm(x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real))
        return self.head(x.mean(dim=1))


class SparseMoE(nn.Module):
    def __init__(self, dim=6, hidden=7, num_experts=3, top_k=2):
        super().__init__()
        self.num_experts, self.top_k = num_experts, top_k
        self.gate = nn.Linear(dim, num_experts, bias=False)
        self.experts = nn.ModuleList([GatedMLP(dim, hidden) for _ in range(num_experts)])

    def forward(self, x):
        b, t, d = x.shape
        x = x.view(-1, d)
        weights, selected = torch.topk(F.softmax(self.gate(x), dim=1), self.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        final = torch.zeros((b * t, d), dtype=x.dtype, device=x.device)
        expert_mask = F.one_hot(selected, num_classes=self.num_experts).permute(2, 1, 0)
        for index, expert in enumerate(self.experts):
            idx, top_x = torch.where(expert_mask[index])
            current = expert(x[None, top_x].reshape(-1, d)) * weights[top_x, idx, None]
            final.index_add_(0, top_x, current.to(x.dtype))
        return final.reshape(b, t, d)


class Retention(nn.Module):
    def __init__(self, dim=7, heads=2, key_dim=3, value_dim=5):
        super().__init__()
        self.heads, self.scaling = heads, key_dim**-0.5
        self.q_proj, self.k_proj = (nn.Linear(dim, heads * key_dim, bias=False) for _ in range(2))
        self.v_proj, self.g_proj = (nn.Linear(dim, heads * value_dim, bias=False) for _ in range(2))
        self.group_norm, self.out_proj = nn.GroupNorm(heads, heads * value_dim), nn.Linear(heads * value_dim, dim)
        self.register_buffer("decay", 1 - 2.0 ** (-5 - torch.arange(heads)))

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (proj(x).view(b, t, self.heads, -1) for proj in (self.q_proj, self.k_proj, self.v_proj))
        state, outputs = 0, []
        for i in range(t):
            kv = k[:, i, :, :, None] * self.scaling * v[:, i, :, None, :]
            state = kv + self.decay.view(self.heads, 1, 1) * state
            outputs.append(torch.sum(q[:, i, :, :, None] * state, dim=2))
        out = self.group_norm(torch.stack(outputs, dim=1).reshape(b * t, -1)).view(b, t, -1)
        return self.out_proj(F.silu(self.g_proj(x)) * out)


class Mamba(nn.Module):
    def __init__(self, d_model=6, d_inner=10, d_state=3, dt_rank=2, d_conv=4):
        super().__init__()
        self.d_inner, self.d_state, self.dt_rank = d_inner, d_state, dt_rank
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj, self.out_proj = nn.Linear(dt_rank, d_inner), nn.Linear(d_inner, d_model, bias=False)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1).repeat(d_inner, 1)))
        self.D = nn.Parameter(torch.ones(d_inner))

    def forward(self, hidden_states):
        batch, length, _ = hidden_states.shape
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., :length]).transpose(1, 2)
        dt, b, c = torch.split(self.x_proj(x), [self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt, a = F.softplus(self.dt_proj(dt)), -torch.exp(self.A_log)
        delta_a, delta_bx = torch.exp(torch.einsum("bld,dn->bldn", dt, a)), torch.einsum("bld,bln,bld->bldn", dt, b, x)
        state = torch.zeros((batch, self.d_inner, self.d_state), device=x.device, dtype=x.dtype)
        ys = []
        for i in range(length):
            state = delta_a[:, i] * state + delta_bx[:, i]
            ys.append(torch.einsum("bdn,bn->bd", state, c[:, i, :]))
        y = torch.stack(ys, dim=1) + x * self.D
        return self.out_proj(y * F.silu(z))


class LSTMLanguageModel(nn.Module):
    def __init__(self, ntoken, nhid, nlayers):
        super().__init__()
        self.drop, self.encoder = nn.Dropout(0.2), nn.Embedding(ntoken, nhid)
        self.rnn = nn.LSTM(nhid, nhid, nlayers, dropout=0.2)
        self.decoder = nn.Linear(nhid, ntoken)
        self.decoder.weight = self.encoder.weight
        self.ntoken, self.nhid, self.nlayers = ntoken, nhid, nlayers

    def forward(self, tokens):
        zeros = self.encoder.weight.new_zeros(self.nlayers, tokens.size(1), self.nhid)
        output, _ = self.rnn(self.drop(self.encoder(tokens)), (zeros, zeros))
        return F.log_softmax(self.decoder(self.drop(output)).view(-1, self.ntoken), dim=1)


class PackedGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(17, 6, padding_idx=0)
        self.gru = nn.GRU(6, 7, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * 7, 3)

    def forward(self, text, lengths):
        packed = pack_padded_sequence(self.embedding(text), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, hidden = self.gru(packed)
        return self.fc(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1))


class BahdanauAttention(nn.Module):
    def __init__(self, hidden, size):
        super().__init__()
        self.Wa, self.Ua, self.Va = nn.Linear(hidden, size), nn.Linear(hidden, size), nn.Linear(size, 1)

    def forward(self, query, keys):
        scores = self.Va(torch.tanh(self.Wa(query) + self.Ua(keys))).squeeze(2).unsqueeze(1)
        return torch.bmm(F.softmax(scores, dim=-1), keys)


class Seq2Seq(nn.Module):
    def __init__(self, source=13, target=11, embedding=6, hidden=7):
        super().__init__()
        self.source, self.target = nn.Embedding(source, embedding), nn.Embedding(target, embedding)
        self.encoder = nn.GRU(embedding, hidden, batch_first=True)
        self.attention, self.out = BahdanauAttention(hidden, 5), nn.Linear(hidden, target)
        self.decoder = nn.GRU(embedding + hidden, hidden, batch_first=True)

    def forward(self, source, target):
        keys, hidden = self.encoder(self.source(source))
        token = torch.empty(source.size(0), 1, dtype=torch.long, device=source.device).fill_(1)
        outputs = []
        for i in range(target.size(1)):
            context = self.attention(hidden.permute(1, 0, 2), keys)
            output, hidden = self.decoder(torch.cat((self.target(token), context), dim=2), hidden)
            outputs.append(self.out(output))
            token = target[:, i].unsqueeze(1)
        return F.log_softmax(torch.cat(outputs, dim=1), dim=-1)


class HandwrittenLSTM(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.hidden = hidden
        self.x2h, self.h2h = nn.Linear(inputs, 4 * hidden), nn.Linear(hidden, 4 * hidden)
        self.fc = nn.Linear(hidden, outputs)

    def forward(self, x):
        h = c = torch.zeros(x.size(0), self.hidden, dtype=x.dtype, device=x.device)
        for t in range(x.size(1)):
            gates = self.x2h(x[:, t, :]) + self.h2h(h)
            ingate, forgetgate, cellgate, outgate = gates.chunk(4, 1)
            c = torch.sigmoid(forgetgate) * c + torch.sigmoid(ingate) * torch.tanh(cellgate)
            h = torch.sigmoid(outgate) * torch.tanh(c)
        return self.fc(h)


class GRUCells(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.GRUCell(5, 7), nn.GRUCell(7, 6), nn.Linear(6, 2)

    def forward(self, x):
        h1, h2 = x.new_zeros(len(x), self.first.hidden_size), x.new_zeros(len(x), self.second.hidden_size)
        out = []
        for step in x.unbind(1):
            h1 = self.first(step, h1)
            h2 = self.second(h1, h2)
            out.append(self.head(h2))
        return torch.stack(out, 1)


class QRNNLayer(nn.Module):
    def __init__(self, inputs, hidden, window=2):
        super().__init__()
        self.window, self.conv = window, nn.Conv1d(inputs, 3 * hidden, window)

    def forward(self, x):
        z, f, o = self.conv(F.pad(x, (self.window - 1, 0))).chunk(3, dim=1)
        z, f, o = torch.tanh(z), torch.sigmoid(f), torch.sigmoid(o)
        c, hs = torch.zeros_like(z[:, :, 0]), []
        for t in range(z.size(2)):
            c = f[:, :, t] * c + (1 - f[:, :, t]) * z[:, :, t]
            hs.append(o[:, :, t] * c)
        return torch.stack(hs, dim=2)


class WaveNet(nn.Module):
    def __init__(self, classes=13, residual=6, dilated=10, skips=8, dilations=(1, 2, 4)):
        super().__init__()
        self.start, self.dilations = nn.Conv1d(classes, residual, 1), dilations
        self.filters, self.gates = (
            nn.ModuleList(nn.Conv1d(residual, dilated, 2, dilation=d) for d in dilations) for _ in range(2)
        )
        self.residuals = nn.ModuleList(nn.Conv1d(dilated, residual, 1) for _ in dilations)
        self.skips = nn.ModuleList(nn.Conv1d(dilated, skips, 1) for _ in dilations)
        self.end_1, self.end_2 = nn.Conv1d(skips, 7, 1), nn.Conv1d(7, classes, 1)

    def forward(self, x):
        x, skip = self.start(x), 0
        for i, dilation in enumerate(self.dilations):
            padded = F.pad(x, (dilation, 0))
            z = torch.tanh(self.filters[i](padded)) * torch.sigmoid(self.gates[i](padded))
            skip = self.skips[i](z) + skip
            x = self.residuals[i](z) + x[:, :, -z.size(2) :]
        return self.end_2(F.relu(self.end_1(F.relu(skip))))


class TemporalBlock(nn.Module):
    def __init__(self, n_inputs, n_outputs, dilation):
        super().__init__()
        self.chomp_size = 2 * dilation
        self.conv1 = weight_norm(nn.Conv1d(n_inputs, n_outputs, 3, padding=2 * dilation, dilation=dilation))
        self.conv2 = weight_norm(nn.Conv1d(n_outputs, n_outputs, 3, padding=2 * dilation, dilation=dilation))
        self.downsample = nn.Conv1d(n_inputs, n_outputs, 1) if n_inputs != n_outputs else None

    def forward(self, x):
        out = F.relu(self.conv1(x)[:, :, : -self.chomp_size].contiguous())
        out = F.relu(self.conv2(out)[:, :, : -self.chomp_size].contiguous())
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ConformerBlock(nn.Module):
    def __init__(self, dim=8, heads=2, ff=11, inner=6):
        super().__init__()
        self.ff1, self.ff2 = (
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, ff), nn.SiLU(), nn.Linear(ff, dim)) for _ in range(2)
        )
        self.attn_norm, self.attn = nn.LayerNorm(dim), nn.MultiheadAttention(dim, heads, batch_first=True)
        self.conv_norm, self.pointwise1 = nn.LayerNorm(dim), nn.Conv1d(dim, 2 * inner, 1)
        self.depthwise, self.bn = nn.Conv1d(inner, inner, 3, padding=1, groups=inner), nn.BatchNorm1d(inner)
        self.pointwise2, self.final_norm = nn.Conv1d(inner, dim, 1), nn.LayerNorm(dim)

    def forward(self, x):
        x = x + 0.5 * self.ff1(x)
        y = self.attn_norm(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = F.glu(self.pointwise1(self.conv_norm(x).transpose(1, 2)), dim=1)
        x = x + self.pointwise2(F.silu(self.bn(self.depthwise(y)))).transpose(1, 2)
        return self.final_norm(x + 0.5 * self.ff2(x))


class SpeechCTC(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(1, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5), nn.Hardtanh(0, 20, inplace=True)),
            *(nn.Conv2d(5, 7, 3, stride=(2, 1), padding=1), nn.BatchNorm2d(7), nn.Hardtanh(0, 20, inplace=True)),
        )
        self.rnn, self.fc = nn.LSTM(7 * 3, 11, bidirectional=True, batch_first=True), nn.Linear(22, 13)

    def forward(self, mel):
        x = self.conv(torch.log(mel + 1e-6).unsqueeze(1))
        sizes = x.size()
        x, _ = self.rnn(x.view(sizes[0], sizes[1] * sizes[2], sizes[3]).transpose(1, 2))
        return self.fc(x).log_softmax(2).transpose(0, 1)


class CharacterCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(26, 4)
        self.convs = nn.ModuleList([nn.Conv1d(4, n, k) for n, k in ((5, 2), (6, 3), (7, 4))])
        self.transform, self.plain, self.fc = nn.Linear(18, 18), nn.Linear(18, 18), nn.Linear(18, 3)

    def forward(self, x):
        x = self.embedding(x).transpose(1, 2)
        x = torch.cat([F.relu(conv(x)).max(dim=2)[0] for conv in self.convs], dim=1)
        t = torch.sigmoid(self.transform(x))
        return self.fc(t * F.relu(self.plain(x)) + (1 - t) * x)


def projected_lstm():
    def forward(m, x):
        with warnings.catch_warnings(action="ignore"):  # that oneDNN cannot do projections
            return m.head(m.lstm(x)[0][:, -1])

    return Net(forward, lstm=nn.LSTM(5, 11, proj_size=4, batch_first=True), head=nn.Linear(4, 3))


def tcn():
    network = nn.Sequential(TemporalBlock(3, 5, 1), TemporalBlock(5, 7, 2))
    return Net(lambda m, x: m.linear(m.network(x)[:, :, -1]), network=network, linear=nn.Linear(7, 4))


def translation(*sizes):
    return lambda n: tuple(torch.randint(vocabulary, (n, length)) for vocabulary, length in sizes)


def time_first(vocabulary, length):
    return lambda n: (torch.randint(vocabulary, (length, n)),)


def bert_text(length):
    def make(n):
        mask = (torch.arange(length) < torch.randint(1, length + 1, (n, 1))).long()
        return torch.randint(29, (n, length)), torch.randint(2, (n, length)), mask

    return make


def padded_text(length):
    return lambda n: (torch.randint(17, (n, length)), torch.arange(length) >= torch.randint(1, length + 1, (n, 1)))


def pictures(regions, words):
    return lambda n: (torch.randn(n, regions, 5), torch.randint(17, (n, words)))


def of_lengths(longest):
    return lambda n: (torch.randint(17, (n, longest)), torch.randint(1, longest + 1, (n,)))


ARCHITECTURES = [
    zoo(
        *("multi-query", model_of(23, 14, lambda: MultiQueryAttention(14, 3, 10, 11), lambda: mlp(14, 17, 14))),
        *(tokens(23, 7), tokens(23, 11)),
        "embed.weight[1] layers.0.fn.qkv.weight[0] layers.0.fn.out.weight[1] layers.0.fn.cos[1] "
        "layers.1.fn.0.weight[0] embed.weight[0]=looks layers.0.fn.cos[0]=cuts layers.0.fn.sin[0]=cuts "
        "head.weight[0]=output",
    ),
    zoo(
        *("nanogpt", lambda: GPT(CausalSelfAttention, 23, 12, 3, 11, tied=True), tokens(23, 7), tokens(23, 11)),
        "wte.weight[1] wpe.weight[1] h.0.fn.c_attn.weight[0] h.0.fn.c_proj.weight[1] h.1.fn.0.weight[0] "
        "h.1.fn.2.weight[1] ln_f.weight[0] wte.weight[0]=looks wpe.weight[0]=looks",
    ),
    zoo(
        *("nanogpt of one size", lambda: GPT(CausalSelfAttention, 9, 9, 3, 9), tokens(9, 9), None),
        "wte.weight[1] h.0.fn.c_attn.weight[0] h.1.fn.2.weight[1] h.2.norm.weight[0] lm_head.weight[1] "
        "wte.weight[0]=looks lm_head.weight[0]=output",
        batches=(3, 9),
    ),
    zoo(
        *("mingpt", lambda: GPT(MaskedSelfAttention, 19, 10, 2, 9), tokens(19, 5), tokens(19, 9)),
        "wte.weight[1] h.0.fn.key.weight[0] h.0.fn.value.weight[0] h.0.fn.proj.weight[1] h.3.fn.0.weight[0] "
        "lm_head.weight[1] wpe.weight[0]=looks wte.weight[0]=looks lm_head.weight[0]=output",
    ),
    zoo(
        *("llama", model_of(19, 14, LlamaAttention, GatedMLP, norm=RMSNorm), tokens(19, 5), tokens(19, 8)),
        "layers.0.fn.q_proj.weight[0] layers.0.fn.k_proj.weight[0] layers.0.fn.o_proj.weight[1] "
        f"layers.1.fn.gate_proj.weight[0] layers.1.fn.down_proj.weight[1] layers.0.norm.weight[0] {MODEL}",
    ),
    zoo(
        *("llama, complex rotation", LlamaReference, tokens(13, 5), tokens(13, 8)),
        "attention.wq.weight[0] attention.wo.weight[1] feed_forward.fn.up_proj.weight[0] tok_embeddings.weight[1] "
        "output.weight[1] tok_embeddings.weight[0]=looks output.weight[0]=output",
    ),
    zoo(
        *("palm", model_of(17, 14, ParallelMultiQuery), tokens(17, 6), tokens(17, 9)),
        "layers.0.fn.fused_proj.weight[0] layers.0.fn.attn_out.weight[1] layers.0.fn.ff_out.weight[1] "
        f"layers.0.norm.weight[0] {MODEL}",
    ),
    zoo(
        *("bert", Bert, bert_text(7), bert_text(11)),
        "word_embeddings.weight[1] layer.query.weight[0] layer.value.weight[0] layer.dense.weight[1] "
        "layer.intermediate.weight[0] pooler.weight[0] transform_norm.weight[0] word_embeddings.weight[0]=looks "
        "position_embeddings.weight[0]=looks seq_relationship.weight[0]=output bias[0]=looks",
    ),
    zoo(
        *("nn.Transformer", Translator, translation((17, 6), (19, 5)), translation((17, 8), (19, 9))),
        "transformer.encoder.layers.0.linear1.weight[0] transformer.decoder.layers.0.linear2.weight[1] "
        "transformer.encoder.layers.0.self_attn.in_proj_weight[0] source.weight[1] target.weight[1] "
        "source.weight[0]=looks target.weight[0]=looks generator.weight[0]=output",
    ),
    zoo(
        *("nn.TransformerEncoder", TutorialTransformer, time_first(19, 7), time_first(19, 11)),
        "encoder.layers.0.linear1.weight[0] encoder.layers.1.linear2.weight[1] embedding.weight[1] "
        "encoder.layers.0.self_attn.out_proj.weight[1] embedding.weight[0]=looks linear.weight[0]=output",
    ),
    zoo(
        *("nn.TransformerEncoder, padded", PaddedClassifier, padded_text(7), padded_text(10)),
        "encoder.layers.0.linear1.weight[0] encoder.layers.0.norm1.weight[0] embedding.weight[1] "
        "classifier.0.weight[0] classifier.2.weight[1] embedding.weight[0]=looks classifier.2.weight[0]=output",
    ),
    zoo(
        *("nn.TransformerDecoder", Captioner, pictures(4, 6), pictures(5, 9)),
        "features.weight[0] words.weight[1] positions[2] decoder.layers.0.linear1.weight[0] decoder.norm.weight[0] "
        "features.weight[1]=input words.weight[0]=looks positions[1]=cuts head.weight[0]=output",
    ),
    zoo(
        *("nn.MultiheadAttention", CrossModal, reals((4, 5), (6, 4), (6, 6)), reals((5, 5), (8, 4), (8, 6))),
        "query.weight[0] key.0.weight[0] attention.k_proj_weight[1] attention.q_proj_weight[0] head.weight[1] "
        "key.0.weight[1]=input query.weight[1]=input attention.v_proj_weight[1]=input head.weight[0]=output",
    ),
    zoo(
        *("transformer-xl", model_of(17, 10, RelativeAttention), tokens(17, 6), tokens(17, 9)),
        "layers.0.fn.qkv_net.weight[0] layers.0.fn.r_net.weight[0] layers.0.fn.r_w_bias[0] layers.0.fn.r_w_bias[1] "
        f"layers.0.fn.o_net.weight[1] {MODEL}",
    ),
    zoo(
        *("linformer", model_of(11, 14, LinformerAttention), tokens(11, 9), None),
        "layers.0.fn.to_q.weight[0] layers.0.fn.to_v.weight[0] layers.0.fn.to_out.weight[1] "
        f"layers.0.fn.proj_k[1] layers.0.fn.proj_v[1] layers.0.fn.proj_k[0]=input {MODEL}",
    ),
    zoo(
        *("fnet", FNet, tokens(13, 8), tokens(13, 11)),
        "ff.fn.0.weight[0] ff.fn.0.bias[0] ff.fn.2.weight[1] embedding.weight[1]=fft norm.weight[0]=fft "
        "ff.fn.0.weight[1]=fft position.weight[0]=looks embedding.weight[0]=looks head.weight[0]=output",
    ),
    zoo(
        *("sparse mixture of experts", model_of(17, 6, SparseMoE), tokens(17, 5), tokens(17, 8)),
        "layers.0.fn.experts.0.gate_proj.weight[0] layers.0.fn.experts.2.down_proj.weight[1] layers.0.norm.weight[0] "
        f"layers.0.fn.gate.weight[0]=topk {MODEL}",
    ),
    zoo(
        *("retnet", model_of(17, 7, Retention), tokens(17, 5), tokens(17, 8)),
        "layers.0.fn.q_proj.weight[0] layers.0.fn.k_proj.weight[0] layers.0.fn.v_proj.weight[0] "
        f"layers.0.fn.g_proj.weight[0] layers.0.fn.group_norm.weight[0] layers.0.fn.out_proj.weight[1] {MODEL}",
    ),
    zoo(
        *("mamba", model_of(17, 6, Mamba, norm=RMSNorm), tokens(17, 5), tokens(17, 8)),
        "layers.0.fn.in_proj.weight[0] layers.0.fn.conv1d.weight[0] layers.0.fn.A_log[0] layers.0.fn.A_log[1] "
        f"layers.0.fn.x_proj.weight[1] layers.0.fn.dt_proj.weight[1] layers.0.fn.out_proj.weight[1] {MODEL}",
    ),
    zoo(
        *("lstm language model", lambda: LSTMLanguageModel(17, 9, 2), time_first(17, 6), time_first(17, 8)),
        "rnn.weight_ih_l0[0] rnn.weight_hh_l0[1] rnn.weight_ih_l1[1] rnn.weight_hh_l1[0] rnn.bias_ih_l0[0] "
        "encoder.weight[1] encoder.weight[0]=looks decoder.bias[0]=looks",
    ),
    zoo(
        *("packed gru", PackedGRU, of_lengths(6), of_lengths(9)),
        "embedding.weight[1] gru.weight_hh_l0[0] gru.weight_hh_l0[1] gru.weight_ih_l0_reverse[1] fc.weight[1] "
        "embedding.weight[0]=looks fc.weight[0]=output",
    ),
    zoo(
        *("projected lstm", projected_lstm, reals((6, 5)), reals((9, 5))),
        "lstm.weight_ih_l0[0] lstm.weight_hr_l0[1] lstm.weight_hr_l0[0] lstm.weight_hh_l0[1] head.weight[1] "
        "lstm.weight_ih_l0[1]=input head.weight[0]=output",
    ),
    zoo(
        *("seq2seq with attention", Seq2Seq, translation((13, 6), (11, 4)), translation((13, 8), (11, 5))),
        "source.weight[1] target.weight[1] encoder.weight_hh_l0[0] attention.Wa.weight[0] attention.Va.weight[1] "
        "decoder.weight_ih_l0[1] decoder.weight_hh_l0[1] out.weight[1] out.weight[0]=output source.weight[0]=looks",
    ),
    zoo(
        *("lstm by hand", lambda: HandwrittenLSTM(4, 4, 3), reals((4, 4)), reals((7, 4))),
        "x2h.weight[0] h2h.weight[0] h2h.weight[1] fc.weight[1] x2h.weight[1]=input fc.weight[0]=output",
        batches=(4, 3),
    ),
    zoo(
        *("gru cells", GRUCells, reals((6, 5)), reals((9, 5))),
        "first.weight_hh[0] first.weight_hh[1] second.weight_ih[1] second.weight_hh[1] head.weight[1] "
        "first.weight_ih[1]=input head.weight[0]=output",
    ),
    zoo(
        *("qrnn", lambda: nn.Sequential(QRNNLayer(5, 7), QRNNLayer(7, 6), nn.Conv1d(6, 3, 1)), reals((5, 8))),
        *(reals((5, 11)), "0.conv.weight[0] 1.conv.weight[1] 2.weight[1] 0.conv.weight[1]=input 2.weight[0]=output"),
    ),
    zoo(
        *("wavenet", WaveNet, reals((13, 16)), reals((13, 20))),
        "start.weight[0] filters.0.weight[0] gates.1.weight[0] residuals.0.weight[1] skips.0.weight[0] "
        "end_1.weight[1] end_1.weight[0] start.weight[1]=input end_2.weight[0]=output",
    ),
    zoo(
        *("temporal convolutions", tcn, reals((3, 10)), reals((3, 14))),
        "network.1.conv2.parametrizations.weight.original1[0] network.1.conv2.parametrizations.weight.original0[0] "
        "network.1.downsample.weight[0] linear.weight[1] network.0.downsample.weight[1]=input linear.weight[0]=output",
    ),
    zoo(
        *("conformer", lambda: nn.Sequential(nn.Linear(5, 8), ConformerBlock(), nn.Linear(8, 3)), reals((7, 5))),
        reals((11, 5)),
        "0.weight[0] 1.ff1.1.weight[0] 1.ff2.3.weight[1] 1.pointwise1.weight[0] 1.depthwise.weight[0] 1.bn.weight[0] "
        "1.pointwise2.weight[1] 2.weight[1] 0.weight[1]=input 2.weight[0]=output",
    ),
    zoo(
        *("speech", SpeechCTC, lambda n: (torch.rand(n, 12, 20),), lambda n: (torch.rand(n, 12, 30),)),
        "conv.0.weight[0] conv.1.weight[0] conv.3.weight[0] rnn.weight_hh_l0[1] rnn.weight_ih_l0[0] "
        "rnn.weight_ih_l0[1] fc.weight[1] fc.weight[0]=output fc.bias[0]=output",
    ),
    zoo(
        *("character cnn", CharacterCNN, tokens(26, 9), tokens(26, 12)),
        "embedding.weight[1] convs.0.weight[0] convs.2.weight[0] transform.weight[0] plain.weight[1] fc.weight[1] "
        "embedding.weight[0]=looks fc.weight[0]=output",
    ),
]
