"""Architectures for vectors, sets, graphs, tables, fields and several modalities; odd layers, inputs and outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.sequence import Net, mlp, reals, tokens, zoo

SHARED = "share|neither"  # what is squared or used twice cannot be shared out


class Literal(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 16), nn.Linear(8, 7), nn.Linear(14, 3)

    def forward(self, x):
        x = F.relu(self.first(x)).view(x.shape[0], 2, 8)
        return self.last(F.relu(self.second(x)).flatten(1))


class ResidualBlock(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden)
        self.fc2, self.bn2 = nn.Linear(hidden, dim, bias=False), nn.BatchNorm1d(dim)

    def forward(self, x):
        out = F.relu(self.bn1(self.fc1(x)), inplace=True)
        out = self.bn2(self.fc2(out))
        out += x
        return F.relu(out)


def residual_mlp():
    return nn.Sequential(nn.Linear(5, 7), ResidualBlock(7, 11), nn.Dropout(0.3), ResidualBlock(7, 13), nn.Linear(7, 3))


def normalised_over_two_axes():
    return nn.Sequential(
        nn.Linear(5, 6), nn.LayerNorm([4, 6]), nn.GELU(), nn.Linear(6, 7), nn.Flatten(), nn.Linear(28, 3)
    )


class BareParameters(nn.Module):
    def __init__(self, i=5, j=7, k=3, m=11, o=2):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(i, j) / i**0.5), nn.Parameter(torch.zeros(j))
        self.core = nn.Parameter(torch.randn(j, k, m) / j**0.5)
        self.gain, self.w2 = nn.Parameter(torch.ones(k, 1)), nn.Parameter(torch.randn(k, m, o))

    def forward(self, x):
        h = torch.tanh(torch.einsum("bi,ij->bj", x, self.w1) + self.b1)
        h = torch.einsum("bj,jkm->bkm", h, self.core).relu() * self.gain
        return torch.einsum("bkm,kmo->bo", h, self.w2)


class Maxout(nn.Module):
    def __init__(self, inputs, units, pieces):
        super().__init__()
        self.lin, self.units, self.pieces = nn.Linear(inputs, units * pieces), units, pieces

    def forward(self, x):
        return self.lin(x).view(-1, self.units, self.pieces).max(dim=-1).values


class LoRALinear(nn.Module):
    def __init__(self, inputs, outputs, r=2, alpha=4):
        super().__init__()
        self.base, self.scaling = nn.Linear(inputs, outputs), alpha / r
        self.base.weight.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(r, inputs) / inputs**0.5)
        self.lora_B = nn.Parameter(torch.zeros(outputs, r))

    def forward(self, x):
        return self.base(x) + (x @ self.lora_A.T @ self.lora_B.T) * self.scaling


class QuantisedLinear(nn.Linear):
    def forward(self, x):
        weight = torch.fake_quantize_per_tensor_affine(self.weight, 0.01, 0, -128, 127)
        return torch.fake_quantize_per_tensor_affine(F.linear(x, weight, self.bias), 0.05, 0, -128, 127)


def quantised():
    return nn.Sequential(QuantisedLinear(5, 11), nn.ReLU(), QuantisedLinear(11, 7), nn.ReLU(), nn.Linear(7, 3))


def softmax_gated():
    parts = {"stem": nn.Linear(5, 11), "gate": nn.Linear(11, 7), "value": nn.Linear(11, 7), "head": nn.Linear(7, 3)}
    return Net(lambda m, x: m.head(torch.tanh(F.softmax(m.gate(h := m.stem(x)), dim=-1) * m.value(h))), **parts)


def cosine_classifier():
    parts = {"features": mlp(5, 11, 7), "weight": nn.Parameter(torch.randn(3, 7))}
    return Net(lambda m, x: 10.0 * F.linear(F.normalize(m.features(x)), F.normalize(m.weight, dim=1)), **parts)


def radial_basis_functions():
    centres, log_beta = nn.Parameter(torch.randn(7, 4)), nn.Parameter(torch.zeros(7))
    return Net(
        lambda m, x: m.head(torch.exp(-m.log_beta.exp() * torch.cdist(m.encoder(x), m.centres).pow(2))),
        **{"encoder": mlp(5, 11, 4), "centres": centres, "log_beta": log_beta, "head": nn.Linear(7, 3)},
    )


class BasisLayer(nn.Module):
    def __init__(self, inputs, outputs, grid):
        super().__init__()
        self.register_buffer("grid", torch.linspace(-2, 2, grid))
        self.coef = nn.Parameter(torch.randn(inputs, outputs, grid) / inputs**0.5)

    def forward(self, x):
        basis = torch.exp(-((x.unsqueeze(-1) - self.grid) ** 2))
        return torch.einsum("big,iog->bo", basis, self.coef)


class KANLinear(nn.Module):
    def __init__(self, in_features, out_features, grid_size=5, spline_order=2):
        super().__init__()
        self.in_features, self.out_features, self.spline_order = in_features, out_features, spline_order
        grid = torch.arange(-spline_order, grid_size + spline_order + 1) * (2 / grid_size) - 1
        self.register_buffer("grid", grid.expand(in_features, -1).contiguous())
        self.base_weight = nn.Parameter(torch.randn(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.randn(out_features, in_features, grid_size + spline_order))

    def b_splines(self, x):
        x, grid = x.unsqueeze(-1), self.grid
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.spline_order + 1):
            left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)]) * bases[:, :, :-1]
            bases = left + (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:(-k)]) * bases[:, :, 1:]
        return bases.contiguous()

    def forward(self, x):
        spline = F.linear(self.b_splines(x).view(x.size(0), -1), self.spline_weight.view(self.out_features, -1))
        return F.linear(F.silu(x), self.base_weight) + spline


class Hypernetwork(nn.Module):
    def __init__(self, inputs=5, hidden=7, outputs=3, context=4):
        super().__init__()
        self.inputs, self.hidden, self.outputs = inputs, hidden, outputs
        self.body = nn.Sequential(nn.Linear(context, 11), nn.ReLU())
        self.to_w1, self.to_b1 = nn.Linear(11, hidden * inputs), nn.Linear(11, hidden)
        self.to_w2 = nn.Linear(11, outputs * hidden)

    def forward(self, x, task):
        z = self.body(task)
        h = F.relu(F.linear(x, self.to_w1(z).view(self.hidden, self.inputs), self.to_b1(z)))
        return F.linear(h, self.to_w2(z).view(self.outputs, self.hidden))


class SoftMoE(nn.Module):
    def __init__(self, inputs, hidden, outputs, experts):
        super().__init__()
        self.stem, self.gate = nn.Linear(inputs, 7), nn.Linear(7, experts)
        self.w1, self.b1 = nn.Parameter(torch.randn(experts, 7, hidden)), nn.Parameter(torch.randn(experts, hidden))
        self.w2 = nn.Parameter(torch.randn(experts, hidden, outputs))

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        gates = F.softmax(self.gate(x), dim=-1)
        hidden = F.relu(torch.einsum("btd,edh->bteh", x, self.w1) + self.b1)
        return torch.einsum("bte,bteo->bto", gates, torch.einsum("bteh,eho->bteo", hidden, self.w2))


class Capsules(nn.Module):
    def __init__(self, caps_in=6, dim_in=4, caps_out=3, dim_out=5):
        super().__init__()
        self.caps_in, self.dim_in, self.caps_out = caps_in, dim_in, caps_out
        self.stem, self.primary = nn.Linear(5, 11), nn.Linear(11, caps_in * dim_in)
        self.W = nn.Parameter(torch.randn(1, caps_in, caps_out, dim_out, dim_in))

    @staticmethod
    def squash(s):
        norm = (s**2).sum(-1, keepdim=True)
        return norm / (1 + norm) * s / torch.sqrt(norm + 1e-8)

    def forward(self, x):
        u = self.squash(self.primary(F.relu(self.stem(x))).view(x.size(0), self.caps_in, self.dim_in))
        u_hat = (self.W @ u[:, :, None, :, None]).squeeze(-1)
        b = torch.zeros(x.size(0), self.caps_in, self.caps_out, 1, dtype=x.dtype, device=x.device)
        for _ in range(3):
            v = self.squash((F.softmax(b, dim=2) * u_hat).sum(dim=1))
            b = b + (u_hat * v.unsqueeze(1)).sum(-1, keepdim=True)
        return v.norm(dim=-1)


class Hopfield(nn.Module):
    def __init__(self, inputs=5, dim=7, patterns=11):
        super().__init__()
        self.encoder, self.query, self.head = nn.Linear(inputs, 6), nn.Linear(6, dim), mlp(dim, 13, 3)
        self.patterns, self.beta = nn.Parameter(torch.randn(patterns, dim)), 1 / math.sqrt(dim)

    def forward(self, x):
        state = self.query(F.relu(self.encoder(x)))
        for _ in range(2):
            state = torch.softmax(self.beta * state @ self.patterns.t(), dim=-1) @ self.patterns
        return self.head(state)


def memory_network():
    def forward(m, question):
        u = m.embedding(question).sum(dim=1)
        for _ in range(2):
            u = u + torch.matmul(F.softmax(torch.matmul(u, m.keys.t()), dim=-1), m.values)
        return m.head(u)

    slots = {name: nn.Parameter(torch.randn(7, 6)) for name in ("keys", "values")}
    return Net(forward, embedding=nn.Embedding(17, 6), head=nn.Linear(6, 3), **slots)


class ECANet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.attention = nn.Conv2d(3, 8, 3), nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.conv, self.fc = nn.Conv2d(8, 5, 3), nn.Linear(5, 2)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = F.adaptive_avg_pool2d(x, 1)
        y = self.attention(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return self.fc(F.relu(self.conv(x * torch.sigmoid(y).expand_as(x))).mean(dim=(2, 3)))


class ALBERT(nn.Module):
    def __init__(self, vocabulary=17, embedding=5, hidden=12, heads=4, inner=19):
        super().__init__()
        self.embed, self.expand = nn.Embedding(vocabulary, embedding), nn.Linear(embedding, hidden)
        self.layer, self.repeats = nn.TransformerEncoderLayer(hidden, heads, inner, batch_first=True), 3
        self.back, self.head = nn.Linear(hidden, embedding), nn.Linear(embedding, vocabulary)

    def forward(self, x):
        x = self.expand(self.embed(x))
        for _ in range(self.repeats):
            x = self.layer(x)
        return self.head(F.gelu(self.back(x)))


class Equilibrium(nn.Module):
    def __init__(self, tolerance=None):
        super().__init__()
        self.inject, self.state, self.head = nn.Linear(5, 7), nn.Linear(7, 7, bias=False), nn.Linear(7, 3)
        self.tolerance = tolerance

    def forward(self, x):
        injected = self.inject(x)
        z = torch.zeros_like(injected)
        for _ in range(30 if self.tolerance else 4):
            new = torch.tanh(self.state(z) + injected)
            if self.tolerance and (new - z).abs().max().item() < self.tolerance:
                break
            z = new
        return self.head(z)


class ODEFunction(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim + 1, hidden), nn.Tanh(), nn.Linear(hidden, dim))

    def forward(self, t, y):
        return self.net(torch.cat([y, torch.ones_like(y[:, :1]) * t], dim=1))


class NeuralODE(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.func, self.head = nn.Linear(5, 6), ODEFunction(6, 11), nn.Linear(6, 3)

    def forward(self, x):
        y, h = self.stem(x), 0.25
        for i in range(4):
            y = y + h * self.func(i * h, y)
        return self.head(y)


def branching():
    def forward(m, x):
        h = m.stem(x)
        h = m.left(h) if x.mean() > 0 else m.right(h)
        return m.head(F.relu(h))

    return Net(forward, stem=mlp(5, 19, 7), left=mlp(7, 11, 13), right=mlp(7, 17, 13), head=mlp(13, 23, 3))


class EarlyExit(nn.Module):
    def __init__(self, threshold=0.999):
        super().__init__()
        self.stem, self.threshold = nn.Linear(5, 7), threshold
        self.blocks = nn.ModuleList([mlp(7, 11, 7), mlp(7, 13, 7)])
        self.exits = nn.ModuleList([nn.Linear(7, 3) for _ in range(2)])

    def forward(self, x):
        x = self.stem(x)
        for block, leave in zip(self.blocks, self.exits, strict=True):
            x = x + block(x)
            logits = leave(x)
            if not self.training and logits.softmax(-1).amax(-1).min() > self.threshold:
                return logits
        return logits


class TiedAutoencoder(nn.Module):
    def __init__(self, inputs=5, outer=11, middle=7, linear=False):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outer, inputs) / 3), nn.Parameter(torch.zeros(outer))
        self.down, self.up, self.linear = nn.Linear(outer, middle), nn.Linear(middle, outer), linear
        self.decoder_bias = nn.Parameter(torch.zeros(inputs))

    def forward(self, x):
        code = torch.tanh(self.down(torch.sigmoid(F.linear(x, self.weight, self.bias))))
        h = self.up(code) if self.linear else torch.sigmoid(self.up(code))
        return F.linear(h, self.weight.t(), self.decoder_bias)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(8, 11, 2 * 3, act=nn.Tanh), mlp(3, 7, 8)

    def forward(self, x):
        mu, logvar = self.encoder(x).chunk(2, dim=-1)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar) if self.training else mu
        return torch.sigmoid(self.decoder(z)), mu, logvar


class Coupling(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.net = mlp(dim // 2, hidden, dim)

    def forward(self, x, flip):
        x1, x2 = x.chunk(2, dim=1)
        if flip:
            x1, x2 = x2, x1
        s, t = self.net(x1).chunk(2, dim=1)
        s = torch.tanh(s)
        x2 = x2 * torch.exp(s) + t
        return torch.cat([x2, x1] if flip else [x1, x2], dim=1), s.sum(dim=1)


class Flow(nn.Module):
    def __init__(self):
        super().__init__()
        self.couplings = nn.ModuleList([Coupling(6, 11), Coupling(6, 13)])

    def forward(self, x):
        logdet = 0
        for i, coupling in enumerate(self.couplings):
            x, change = coupling(x, flip=i % 2 == 1)
            logdet = logdet + change
        return x.flip(1), logdet


class Sine(nn.Module):
    def __init__(self, inputs, outputs, omega=30.0):
        super().__init__()
        self.linear, self.omega = nn.Linear(inputs, outputs), omega
        nn.init.uniform_(self.linear.weight, -math.sqrt(6 / inputs) / omega, math.sqrt(6 / inputs) / omega)

    def forward(self, x):
        return torch.sin(self.omega * self.linear(x))


class NeRF(nn.Module):
    def __init__(self, frequencies=2, width=7):
        super().__init__()
        self.frequencies, self.skips = frequencies, [1]
        size = 3 * (1 + 2 * frequencies)
        self.points = nn.ModuleList([nn.Linear(size, width), nn.Linear(width, width), nn.Linear(width + size, width)])
        self.alpha, self.feature = nn.Linear(width, 1), nn.Linear(width, 11)
        self.views, self.rgb = nn.Linear(11 + size, 5), nn.Linear(5, 3)

    def encode(self, x):
        waves = [f(x * 2.0**i) for i in range(self.frequencies) for f in (torch.sin, torch.cos)]
        return torch.cat([x, *waves], -1)

    def forward(self, x, d):
        points, views = self.encode(x), self.encode(d)
        h = points
        for i, layer in enumerate(self.points):
            h = F.relu(layer(h))
            if i in self.skips:
                h = torch.cat([points, h], -1)
        rgb = self.rgb(F.relu(self.views(torch.cat([self.feature(h), views], -1))))
        return torch.cat([torch.sigmoid(rgb), self.alpha(h)], -1)


def deep_sets():
    return Net(lambda m, x: m.rho(m.phi(x).sum(dim=1)), phi=mlp(3, 7, 11), rho=mlp(11, 6, 2))


class MAB(nn.Module):
    def __init__(self, dim_q, dim_k, dim_v, num_heads):
        super().__init__()
        self.dim_V, self.num_heads = dim_v, num_heads
        self.fc_q, self.fc_k, self.fc_v = nn.Linear(dim_q, dim_v), nn.Linear(dim_k, dim_v), nn.Linear(dim_k, dim_v)
        self.fc_o = nn.Linear(dim_v, dim_v)

    def forward(self, q, k):
        q, k, v = self.fc_q(q), self.fc_k(k), self.fc_v(k)
        dim_split = self.dim_V // self.num_heads
        q_, k_, v_ = (torch.cat(t.split(dim_split, 2), 0) for t in (q, k, v))
        a = torch.softmax(q_.bmm(k_.transpose(1, 2)) / math.sqrt(self.dim_V), 2)
        out = torch.cat((q_ + a.bmm(v_)).split(q.size(0), 0), 2)
        return out + F.relu(self.fc_o(out))


class SetTransformer(nn.Module):
    def __init__(self, inputs=3, inducing=4, dim=10, heads=2, outputs=3):
        super().__init__()
        self.inducing, self.seed = nn.Parameter(torch.randn(1, inducing, dim)), nn.Parameter(torch.randn(1, 1, dim))
        self.mab0, self.mab1 = MAB(dim, inputs, dim, heads), MAB(inputs, dim, dim, heads)
        self.pool, self.head = (
            MAB(dim, dim, dim, heads),
            nn.Sequential(nn.Linear(dim, 7), nn.ReLU(), nn.Linear(7, outputs)),
        )

    def forward(self, x):
        x = self.mab1(x, self.mab0(self.inducing.repeat(x.size(0), 1, 1), x))
        return self.head(self.pool(self.seed.repeat(x.size(0), 1, 1), x)).squeeze(1)


class TNet(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k, self.conv1, self.conv2 = k, nn.Conv1d(k, 5, 1), nn.Conv1d(5, 11, 1)
        self.fc1, self.fc2, self.bn = nn.Linear(11, 7), nn.Linear(7, k * k), nn.BatchNorm1d(7)

    def forward(self, x):
        x = torch.max(F.relu(self.conv2(F.relu(self.conv1(x)))), 2, keepdim=True)[0].view(-1, 11)
        x = self.fc2(F.relu(self.bn(self.fc1(x))))
        eye = torch.eye(self.k, dtype=x.dtype, device=x.device).view(1, self.k * self.k).repeat(x.size(0), 1)
        return (x + eye).view(-1, self.k, self.k)


class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stn, self.fstn, self.conv1, self.conv2 = TNet(3), TNet(6), nn.Conv1d(3, 6, 1), nn.Conv1d(6, 13, 1)
        self.bn1, self.bn2, self.fc = nn.BatchNorm1d(6), nn.BatchNorm1d(13), nn.Linear(13, 4)

    def forward(self, x):
        x = torch.bmm(x.transpose(2, 1), self.stn(x)).transpose(2, 1)
        x = F.relu(self.bn1(self.conv1(x)))
        x = torch.bmm(x.transpose(2, 1), self.fstn(x)).transpose(2, 1)
        return self.fc(torch.max(self.bn2(self.conv2(x)), 2)[0])


class DenseGCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(5, 7) / 2), nn.Parameter(torch.randn(7, 3) / 2)

    def forward(self, x, adj):
        adj = adj + torch.eye(adj.size(-1), dtype=x.dtype)
        scale = adj.sum(-1).pow(-0.5)
        adj = scale.unsqueeze(-1) * adj * scale.unsqueeze(-2)
        return adj @ (F.relu(adj @ (x @ self.w1)) @ self.w2)


def adjacency(nodes):
    return lambda n: (torch.randn(n, nodes, 5), (torch.rand(n, nodes, nodes) > 0.5).float())


class GraphClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.other = nn.Linear(5, 7), nn.Linear(5, 7, bias=False)
        self.mlp, self.eps, self.head = mlp(7, 11, 6), nn.Parameter(torch.zeros(1)), nn.Linear(6, 3)

    def forward(self, x, edge_index, batch):
        src, dst = edge_index
        degree = torch.zeros(x.size(0), dtype=x.dtype).scatter_add_(0, dst, torch.ones_like(dst, dtype=x.dtype))
        mean = torch.zeros_like(x).index_add_(0, dst, x[src]) / degree.clamp(min=1).unsqueeze(-1)
        x = F.relu(self.own(x) + self.other(mean))
        index = dst.unsqueeze(-1).expand(-1, x.size(-1))
        x = self.mlp((1 + self.eps) * x + torch.zeros_like(x).scatter_add(0, index, x.index_select(0, src)))
        pooled = x.new_zeros(int(batch.max()) + 1, x.size(1)).index_add_(0, batch, x)
        return self.head(pooled)


class GATLayer(nn.Module):
    def __init__(self, inputs, heads, outputs, concat):
        super().__init__()
        self.heads, self.outputs, self.concat = heads, outputs, concat
        self.lin = nn.Linear(inputs, heads * outputs, bias=False)
        self.att_src, self.att_dst = (nn.Parameter(torch.randn(1, heads, outputs)) for _ in range(2))

    def forward(self, x, edge_index):
        src, dst = edge_index
        h = self.lin(x).view(-1, self.heads, self.outputs)
        e = F.leaky_relu((h * self.att_src).sum(-1)[src] + (h * self.att_dst).sum(-1)[dst], 0.2)
        e = torch.exp(e - e.max())
        total = torch.zeros(x.size(0), self.heads, dtype=x.dtype).index_add_(0, dst, e)
        alpha = e / (total[dst] + 1e-16)
        out = torch.zeros_like(h).index_add_(0, dst, h[src] * alpha.unsqueeze(-1))
        return out.view(-1, self.heads * self.outputs) if self.concat else out.mean(dim=1)


class GAT(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GATLayer(5, 3, 4, True), GATLayer(12, 3, 3, False)

    def forward(self, x, edge_index):
        return self.conv2(F.elu(self.conv1(x, edge_index)), edge_index)


def graphs(nodes, edges, pooled=False):
    def make(n):
        batch = (torch.arange(n).repeat_interleave(nodes),) if pooled else ()
        offsets = (torch.arange(n) * nodes).repeat_interleave(edges)
        return torch.randn(n * nodes, 5), torch.randint(nodes, (2, n * edges)) + offsets, *batch

    return make


class Interaction(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.bilinear = nn.Linear(5, 7), nn.Linear(4, 6), nn.Bilinear(7, 6, 11)
        self.k, self.proj1, self.proj2 = 2, nn.Linear(11, 13 * 2), nn.Linear(7, 13 * 2)
        self.outer, self.head = nn.Linear(13, 3), nn.Linear(3 * 6, 2)

    def forward(self, x, y):
        x, y = F.relu(self.left(x)), F.relu(self.right(y))
        z = (self.proj1(F.relu(self.bilinear(x, y))) * self.proj2(x)).view(x.size(0), -1, self.k).sum(2)
        z = torch.sign(z) * torch.sqrt(torch.abs(z) + 1e-6)
        return self.head(torch.einsum("bi,bj->bij", self.outer(z), y).flatten(1))


class DeepFM(nn.Module):
    def __init__(self, fields=(3, 5, 7), dim=4):
        super().__init__()
        self.register_buffer("offsets", torch.tensor([0, *fields[:-1]]).cumsum(0))
        self.linear, self.embedding = nn.Embedding(sum(fields), 1), nn.Embedding(sum(fields), dim)
        self.mlp = mlp(len(fields) * dim, 11, 13, 1)

    def forward(self, x):
        x = x + self.offsets
        v = self.embedding(x)
        second = 0.5 * (v.sum(dim=1).pow(2) - v.pow(2).sum(dim=1)).sum(dim=1, keepdim=True)
        return torch.sigmoid(self.linear(x).sum(dim=1) + second + self.mlp(v.view(x.size(0), -1))).squeeze(1)


class DLRM(nn.Module):
    def __init__(self):
        super().__init__()
        self.bottom, self.emb = mlp(5, 11, 4), nn.ModuleList([nn.EmbeddingBag(n, 4, mode="sum") for n in (7, 9)])
        self.top = mlp(4 + 3, 13, 1)

    def forward(self, dense_x, indices, offsets):
        x = F.relu(self.bottom(dense_x))
        pooled = [table(i, o) for table, i, o in zip(self.emb, indices, offsets, strict=True)]
        batch, d = x.shape
        features = torch.cat([x, *pooled], dim=1).view((batch, -1, d))
        pairs = torch.bmm(features, torch.transpose(features, 1, 2))
        _, ni, nj = pairs.shape
        li, lj = torch.tril_indices(ni, nj, offset=-1)
        return torch.sigmoid(self.top(torch.cat([x, pairs[:, li, lj]], dim=1)))


def clicks(n):
    bags = [torch.randint(7, (n * 2,)) for _ in range(2)]
    return {"dense_x": torch.randn(n, 5), "indices": bags, "offsets": [torch.arange(n) * 2 for _ in range(2)]}


class WideAndDeep(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.user, self.item = nn.Linear(6, 1), nn.Embedding(11, 4), nn.Embedding(13, 5)
        self.deep = nn.Sequential(nn.Linear(4 + 5 + 6, 7), nn.ReLU(), nn.BatchNorm1d(7), nn.Linear(7, 1))
        self.factors = nn.ModuleDict({"user": nn.Embedding(11, 3), "item": nn.Embedding(13, 3)})

    def forward(self, *, user, item, dense):
        deep = self.deep(torch.cat([self.user(user), self.item(item), dense], dim=-1))
        matched = (self.factors["user"](user) * self.factors["item"](item)).sum(dim=-1, keepdim=True)
        return self.wide(dense) + deep + matched


def visits(n):
    return {"user": torch.randint(11, (n,)), "item": torch.randint(13, (n,)), "dense": torch.randn(n, 6)}


class Batch(NamedTuple):
    features: Tensor
    mask: Tensor


@dataclass
class Prediction:
    logits: Tensor
    hidden: Tensor | None = None


@dataclass
class Sample:
    features: Tensor
    mask: Tensor
    source: str = "camera"


class Structured(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.summary, self.head = mlp(5, 11, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, batch):
        h = F.relu(self.encoder(batch.features)) * batch.mask.unsqueeze(-1)
        hidden = torch.tanh(self.summary(h.sum(1)))
        return Prediction(logits=self.head(hidden), hidden=hidden)


def structured(kind, length):
    return lambda n: (kind(torch.randn(n, length, 5), (torch.rand(n, length) > 0.3).float()),)


def pyramid():
    return Net(
        lambda m, levels: m.head(
            torch.stack([torch.tanh(f(x)) for f, x in zip(m.lateral, levels, strict=True)]).mean(0)
        ),
        **{"lateral": nn.ModuleList([nn.Linear(n, 7) for n in (3, 4, 5)]), "head": mlp(7, 11, 2)},
    )


class Fusion(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.image, self.text = nn.Linear(5, dim), nn.Embedding(17, dim)
        self.to_text, self.to_image = (nn.MultiheadAttention(dim, 3, batch_first=True) for _ in range(2))
        self.norm, self.classifier = nn.LayerNorm(dim), mlp(2 * dim, 7, 3)

    def forward(self, patches, words):
        image, text = self.image(patches), self.text(words)
        a = self.norm(image + self.to_text(image, text, text, need_weights=False)[0])
        b = self.norm(text + self.to_image(text, image, image, need_weights=False)[0])
        return self.classifier(torch.cat([a.mean(1), b.mean(1)], -1))


def pictures_and_words(patches, words):
    return lambda n: (torch.randn(n, patches, 5), torch.randint(17, (n, words)))


def dueling():
    def forward(m, state):
        h = F.relu(m.features(state))
        advantage = m.advantage(h)
        return m.value(h) + advantage - advantage.mean(dim=1, keepdim=True)

    return Net(forward, features=nn.Linear(5, 11), value=mlp(11, 7, 1), advantage=mlp(11, 6, 4))


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.log_std = mlp(5, 11, 7, act=nn.Tanh), nn.Parameter(torch.zeros(1, 2))
        self.mu, self.critic = nn.Linear(7, 2), nn.Linear(7, 1)

    def forward(self, state):
        h = torch.tanh(self.trunk(state))
        mu = self.mu(h)
        return mu, self.log_std.expand_as(mu).exp(), self.critic(h).squeeze(-1)


def several_tasks():
    heads = nn.ModuleDict({"class": mlp(7, 6, 3), "depth": nn.Linear(7, 1)})
    return Net(
        lambda m, x: {k: f(h) for h in [m.trunk(x)] for k, f in m.heads.items()}, trunk=mlp(5, 11, 7), heads=heads
    )


ARCHITECTURES = [
    zoo(
        *("perceptron", lambda: mlp(5, 7, 11, 3), reals((5,)), None),
        "0.weight[0] 0.bias[0] 2.weight[0] 4.weight[1] 0.weight[1]=input 4.weight[0]=output",
    ),
    zoo(
        *("literal sizes", Literal, reals((5,)), None),
        "second.weight[0] second.bias[0] last.weight[1] first.weight[0]=number second.weight[1]=number",
    ),
    zoo(
        *("residual perceptron", residual_mlp, reals((5,)), None),
        "0.weight[0] 1.fc1.weight[0] 3.fc2.weight[1] 3.bn2.weight[0] 0.weight[1]=input 4.weight[0]=output",
    ),
    zoo(
        *("norm over two axes", normalised_over_two_axes, reals((4, 5)), None),
        "0.weight[0] 1.weight[1] 3.weight[1] 3.weight[0] 1.weight[0]=input 0.weight[1]=input 5.weight[0]=output",
    ),
    zoo(
        *("bare parameters", BareParameters, reals((5,)), None),
        "w1[1] b1[0] core[0] core[1] core[2] gain[0] w2[0] w2[1] w1[0]=input w2[2]=output",
    ),
    zoo(
        *("maxout", lambda: nn.Sequential(Maxout(5, 7, 2), Maxout(7, 6, 3), nn.Linear(6, 3)), reals((5,)), None),
        "0.lin.weight[0] 1.lin.weight[1] 1.lin.weight[0] 2.weight[1] 0.lin.weight[1]=input 2.weight[0]=output",
    ),
    zoo(
        *("lora", lambda: nn.Sequential(LoRALinear(5, 11), nn.ReLU(), LoRALinear(11, 3, 4)), reals((5,)), None),
        "0.base.weight[0] 0.lora_B[0] 0.lora_A[0] 0.lora_B[1] 2.base.weight[1] 2.lora_A[1] 2.lora_A[0] "
        "0.base.weight[1]=input 0.lora_A[1]=input 2.lora_B[0]=output",
    ),
    zoo(
        *("fake quantisation", quantised, reals((5,)), None),
        "2.weight[0] 2.bias[0] 4.weight[1] 0.weight[1]=input 4.weight[0]=output "
        "0.weight[0]=neither 0.bias[0]=neither 2.weight[1]=neither",
    ),
    zoo(
        *("softmax over hidden units", softmax_gated, reals((5,)), None),
        "stem.weight[0] gate.weight[1] value.weight[1] stem.weight[1]=input head.weight[0]=output "
        f"gate.weight[0]={SHARED} value.weight[0]={SHARED} head.weight[1]={SHARED}",
    ),
    zoo(
        *("cosine classifier", cosine_classifier, reals((5,)), None),
        "features.0.weight[0] features.2.weight[1] features.2.weight[0] weight[1] "
        "features.0.weight[1]=input weight[0]=output",
    ),
    zoo(
        *("radial basis functions", radial_basis_functions, reals((5,)), None),
        "encoder.0.weight[0] encoder.2.weight[1] centres[0] log_beta[0] head.weight[1] "
        "encoder.2.weight[0]=dist centres[1]=dist encoder.0.weight[1]=input head.weight[0]=output",
    ),
    zoo(
        *("basis functions", lambda: nn.Sequential(BasisLayer(5, 7, 4), BasisLayer(7, 3, 6)), reals((5,)), None),
        "0.coef[1] 1.coef[0] 0.coef[2] 1.coef[2] 0.coef[0]=input 1.coef[1]=output",
    ),
    zoo(
        *("kan", lambda: nn.Sequential(KANLinear(5, 7), KANLinear(7, 3)), reals((5,)), None),
        "0.base_weight[0] 0.spline_weight[0] 1.base_weight[1] 1.spline_weight[1] 0.base_weight[1]=input "
        "0.spline_weight[1]=input 1.base_weight[0]=output 1.spline_weight[2]=number",
    ),
    zoo(
        *("hypernetwork", Hypernetwork, lambda n: (torch.randn(n, 5), torch.randn(4)), None),
        "body.0.weight[0] to_w1.weight[0] to_w1.weight[1] to_b1.weight[0] to_w2.weight[0] body.0.weight[1]=input",
    ),
    zoo(
        *("soft mixture of experts", lambda: SoftMoE(5, 11, 3, 4), reals((6, 5)), reals((8, 5))),
        "stem.weight[0] w1[0] w1[1] w1[2] b1[0] w2[0] w2[1] gate.weight[0] stem.weight[1]=input w2[2]=output",
    ),
    zoo(
        *("capsules", Capsules, reals((5,)), None),
        "stem.weight[0] stem.bias[0] primary.weight[1] stem.weight[1]=input W[2]=output "
        f"W[1]={SHARED} W[3]=norm W[4]={SHARED} primary.weight[0]={SHARED}",
    ),
    zoo(
        *("hopfield", Hopfield, reals((5,)), None),
        "encoder.weight[0] query.weight[1] head.0.weight[0] patterns[0] encoder.weight[1]=input "
        f"patterns[1]={SHARED} query.weight[0]={SHARED} head.2.weight[0]=output",
    ),
    zoo(
        *("memory network", memory_network, tokens(17, 5), tokens(17, 8)),
        "embedding.weight[1] keys[0] keys[1] values[0] values[1] embedding.weight[0]=looks head.weight[0]=output",
    ),
    zoo(
        *("efficient channel attention", ECANet, reals((3, 8, 8)), reals((3, 10, 9))),
        "conv.weight[0] conv.bias[0] fc.weight[1] stem.weight[0]=slides stem.bias[0]=slides "
        "conv.weight[1]=slides stem.weight[1]=input fc.weight[0]=output",
    ),
    zoo(
        *("albert", ALBERT, tokens(17, 6), tokens(17, 9)),
        "embed.weight[1] expand.weight[0] layer.linear1.weight[0] layer.linear2.weight[1] layer.norm1.weight[0] "
        "layer.self_attn.in_proj_weight[0] back.weight[0] head.weight[1] embed.weight[0]=looks head.weight[0]=output",
    ),
    zoo(
        *("equilibrium", Equilibrium, reals((5,)), None),
        "inject.weight[0] state.weight[0] state.weight[1] head.weight[1] inject.weight[1]=input head.weight[0]=output",
    ),
    zoo(
        *("equilibrium to a tolerance", lambda: Equilibrium(1e-4), reals((5,)), None),
        "inject.weight[0] state.weight[0] state.weight[1] head.weight[1] inject.weight[1]=input head.weight[0]=output",
    ),
    zoo(
        *("neural ode", NeuralODE, reals((5,)), None),
        "stem.weight[0] func.net.0.weight[0] func.net.0.weight[1] stem.weight[1]=input head.weight[0]=output",
    ),
    zoo(
        *("branch on the data", branching, reals((5,)), None),
        "stem.0.weight[0] stem.2.weight[0] left.0.weight[0] right.0.weight[0] head.0.weight[1] head.0.weight[0] "
        "stem.0.weight[1]=input head.2.weight[0]=output",
    ),
    zoo(
        *("early exit", EarlyExit, reals((5,)), None),
        "stem.weight[0] blocks.0.0.weight[0] blocks.0.2.weight[1] blocks.1.0.weight[0] exits.1.weight[1] "
        "stem.weight[1]=input exits.0.weight[0]=output exits.1.weight[0]=output",
    ),
    zoo(
        *("tied autoencoder", TiedAutoencoder, reals((5,)), None),
        "down.weight[0] down.bias[0] up.weight[1] weight[1]=input decoder_bias[0]=input "
        f"weight[0]={SHARED} bias[0]={SHARED} up.weight[0]={SHARED}",
    ),
    zoo(
        *("tied autoencoder, linear decoder", lambda: TiedAutoencoder(linear=True), reals((5,)), None),
        "weight[0] bias[0] down.weight[1] up.weight[0] weight[1]=input decoder_bias[0]=input",
    ),
    zoo(
        *("variational autoencoder", VAE, reals((8,)), None),
        "encoder.0.weight[0] encoder.2.weight[1] decoder.0.weight[0] decoder.2.weight[1] encoder.0.weight[1]=input "
        "encoder.2.weight[0]=output decoder.0.weight[1]=output decoder.2.weight[0]=output",
    ),
    zoo(
        *("normalising flow", Flow, reals((6,)), None),
        "couplings.0.net.0.weight[0] couplings.0.net.2.weight[1] couplings.1.net.0.weight[0] "
        "couplings.0.net.0.weight[1]=input couplings.1.net.2.weight[0]=input",
    ),
    zoo(
        *("siren", lambda: nn.Sequential(Sine(2, 7), Sine(7, 11), nn.Linear(11, 3)), reals((2,)), None),
        "0.linear.weight[0] 1.linear.weight[1] 1.linear.weight[0] 0.linear.weight[1]=input 2.weight[0]=output",
    ),
    zoo(
        *("radiance field", NeRF, reals((3,), (3,)), None),
        "points.0.weight[0] points.1.weight[0] points.2.weight[1] feature.weight[0] views.weight[0] alpha.weight[1] "
        "rgb.weight[1] points.0.weight[1]=input alpha.weight[0]=output rgb.weight[0]=output",
    ),
    zoo(
        *("deep sets", deep_sets, reals((4, 3)), reals((6, 3))),
        "phi.0.weight[0] phi.2.weight[0] rho.0.weight[1] rho.2.weight[1] phi.0.weight[1]=input rho.2.weight[0]=output",
    ),
    zoo(
        *("set transformer", SetTransformer, reals((6, 3)), reals((8, 3))),
        "inducing[1] inducing[2] seed[2] mab0.fc_q.weight[0] mab0.fc_o.weight[0] pool.fc_o.weight[1] head.0.weight[0] "
        "head.2.weight[1] mab0.fc_k.weight[1]=input head.2.weight[0]=output",
    ),
    zoo(
        *("pointnet", PointNet, reals((3, 8)), reals((3, 13))),
        "conv2.weight[0] bn2.weight[0] fc.weight[1] stn.conv1.weight[0] stn.fc1.weight[0] stn.bn.weight[0] "
        "stn.conv1.weight[1]=input stn.conv2.weight[0]=number stn.fc1.weight[1]=number fc.weight[0]=output",
    ),
    zoo("dense graph convolution", DenseGCN, adjacency(4), adjacency(6), "w1[1] w2[0] w1[0]=input w2[1]=output"),
    zoo(
        *("graph isomorphism", GraphClassifier, graphs(4, 6, pooled=True), graphs(5, 9, pooled=True)),
        "own.weight[0] other.weight[0] mlp.0.weight[0] mlp.0.weight[1] mlp.2.weight[0] head.weight[1] "
        "own.weight[1]=input other.weight[1]=input head.weight[0]=output",
    ),
    zoo(
        *("graph attention", GAT, graphs(4, 7), graphs(6, 8)),
        "conv1.lin.weight[0] conv1.att_src[1] conv1.att_src[2] conv2.lin.weight[1] conv2.att_dst[1] "
        "conv1.lin.weight[1]=input conv2.att_src[2]=output conv2.att_dst[2]=output",
    ),
    zoo(
        *("bilinear interactions", Interaction, reals((5,), (4,)), None),
        "left.weight[0] right.weight[0] bilinear.weight[0] bilinear.weight[1] bilinear.weight[2] proj1.weight[0] "
        "outer.weight[0] head.weight[1] left.weight[1]=input right.weight[1]=input head.weight[0]=output",
    ),
    zoo(
        *("factorisation machine", DeepFM, lambda n: (torch.randint(3, (n, 3)),), None),
        "mlp.0.weight[0] mlp.2.weight[1] mlp.2.weight[0] mlp.4.weight[1] "
        f"embedding.weight[1]={SHARED} embedding.weight[0]=looks linear.weight[0]=looks",
    ),
    zoo(
        *("dlrm", DLRM, clicks, None),
        "bottom.0.weight[0] bottom.2.weight[1] top.0.weight[0] top.2.weight[1] bottom.0.weight[1]=input "
        f"emb.0.weight[1]={SHARED} bottom.2.weight[0]={SHARED} emb.0.weight[0]=looks",
    ),
    zoo(
        *("wide and deep", WideAndDeep, visits, None),
        "user.weight[1] item.weight[1] deep.0.weight[0] deep.2.weight[0] deep.3.weight[1] factors.user.weight[1] "
        "factors.item.weight[1] wide.weight[1]=input user.weight[0]=looks factors.item.weight[0]=looks",
    ),
    zoo(
        *("named tuple", Structured, structured(Batch, 4), structured(Batch, 6)),
        "encoder.0.weight[0] encoder.2.weight[0] summary.weight[1] encoder.0.weight[1]=input summary.weight[0]=output",
    ),
    zoo(
        *("data class", Structured, structured(Sample, 4), structured(Sample, 6)),
        "encoder.0.weight[0] encoder.2.weight[1] summary.weight[1] summary.weight[0]=output head.weight[0]=output",
    ),
    zoo(
        *("list of tensors", pyramid, lambda n: ([torch.randn(n, size) for size in (3, 4, 5)],), None),
        "lateral.0.weight[0] head.0.weight[1] head.0.weight[0] lateral.0.weight[1]=input head.2.weight[0]=output",
    ),
    zoo(
        *("fusion by cross-attention", Fusion, pictures_and_words(4, 6), pictures_and_words(5, 9)),
        "image.weight[0] text.weight[1] to_text.in_proj_weight[0] to_image.out_proj.weight[1] norm.weight[0] "
        "classifier.0.weight[0] classifier.2.weight[1] image.weight[1]=input text.weight[0]=looks",
    ),
    zoo(
        *("dueling q network", dueling, reals((5,)), None),
        "features.weight[0] value.0.weight[0] value.0.weight[1] features.weight[1]=input advantage.2.weight[0]=output",
    ),
    zoo(
        *("actor and critic", ActorCritic, reals((5,)), None),
        "trunk.2.weight[0] trunk.2.weight[1] mu.weight[1] critic.weight[1] mu.weight[0]=output log_std[1]=output",
    ),
    zoo(
        *("several tasks", several_tasks, reals((5,)), None),
        "trunk.0.weight[0] trunk.2.weight[0] heads.class.0.weight[0] heads.class.2.weight[1] heads.depth.weight[1] "
        "trunk.0.weight[1]=input heads.class.2.weight[0]=output heads.depth.weight[0]=output",
    ),
]
