"""The layers of random programs, each in the spellings in which people write it."""

from __future__ import annotations

from random_networks import Gene, Layer, Shape, act, kind, one, param

# ------------------------------------------------------------------ vectors and tokens: (C,) and (T, C)


@kind
def linear(g: Gene, a: Shape) -> Layer | None:
    *front, c = a
    if len(a) > 2:
        return None
    layer = f"nn.Linear({c}, {g.n}, bias={g.t % 3 < 2})"
    codes = [
        ("self.linear(a)", layer),
        ("a @ self.linear", param(c, g.n)),
        ("F.linear(a, self.linear)", param(g.n, c)),
        ("torch.einsum('...c,cd->...d', a, self.linear)", param(c, g.n)),
        ("self.linear(a)", f"weight_norm({layer})"),
        ("torch.einsum('dc,...c->...d', self.linear, a)", param(g.n, c)),
    ]
    code, part = one([codes[0]] * 6 + codes, g.s)
    return Layer(code, *front, g.n, linear=part)


@kind
def norm(g: Gene, a: Shape) -> Layer | None:
    c = a[-1]
    if len(a) > 2 or c < 2:
        return None
    centred = "a - a.mean(-1, keepdim=True)"
    layers = [
        Layer("self.norm(a)", *a, norm=f"nn.LayerNorm({c})"),
        Layer("self.norm(a)", *a, norm=f"nn.RMSNorm({c})"),
        Layer("self.norm(a)", *a, norm=f"nn.LayerNorm({c}, elementwise_affine=False)"),
        Layer("F.layer_norm(a, a.shape[-1:])", *a),
        Layer("a * torch.rsqrt(a.pow(2).mean(-1, keepdim=True) + 1e-5) * self.gain", *a, gain=param(c)),
        Layer(f"u = {centred}\nu / (u.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.gain", *a, gain=param(c)),
        Layer(f"({centred}) / (a.var(-1, keepdim=True, unbiased={g.t % 2 > 0}) + 1e-5).sqrt()", *a),
        Layer(centred, *a),
        Layer("a / (1 + a.abs().amax(-1, keepdim=True))", *a),
        Layer("F.normalize(a, dim=-1)", *a),
        Layer("a / (1 + a.norm(dim=-1, keepdim=True))", *a),
        Layer("self.norm(a)", *a, norm=f"nn.BatchNorm1d({c})"),
    ]
    if g.s % 12 == 11 and len(a) == 2:
        return Layer("self.norm(a.transpose(1, 2)).transpose(1, 2)", *a, norm=f"nn.BatchNorm1d({c})")
    return one(layers, g.s)


@kind
def glu(g: Gene, a: Shape) -> Layer | None:
    if len(a) > 2:
        return None
    *front, c = a
    take = [
        "u, v = self.up(a).chunk(2, -1)",
        "u, v = self.up(a).split(self.hidden, -1)",
        "w = self.up(a)\nu, v = w[..., : self.hidden], w[..., self.hidden :]",
        "w = self.up(a)\nu, v = w[..., : w.shape[-1] // 2], w[..., w.shape[-1] // 2 :]",
        "u, v = self.up(a).unflatten(-1, (2, -1)).unbind(-2)",
        "w = self.up(a)\nu, v = w.view(*w.shape[:-1], 2, w.shape[-1] // 2).unbind(-2)",
        "w = self.up(a)\nu, v = w[..., ::2], w[..., 1::2]",
        "u, v = self.up(a).view(*a.shape[:-1], -1, 2).unbind(-1)",
        f"w = self.up(a)\nu, v = w[..., :{g.n}], w[..., {g.n}:]",
        "u, v = self.up(a), self.gate(a)",
    ]
    use = ["u * v.sigmoid()", "u * F.silu(v)", "self.down(u * F.gelu(v))", "self.down(F.silu(u) * v)", "u * v + u"]
    parts = {"hidden": g.n, "up": f"nn.Linear({c}, {2 * g.n})"}
    if g.s % len(take) == 9:
        parts.update(up=f"nn.Linear({c}, {g.n})", gate=f"nn.Linear({c}, {g.n}, bias=False)")
    if g.t % 5 in (2, 3):
        parts.update(down=f"nn.Linear({g.n}, {c})")
    return Layer(f"{one(take, g.s)}\n{one(use, g.t)}", *front, c if "down" in parts else g.n, **parts)


def _heads(value: str, g: Gene, t: int, d: int) -> str:
    views = [
        ".view(*{0}.shape[:2], self.heads, -1).transpose(1, 2)",
        ".view({0}.shape[0], {0}.shape[1], self.heads, self.size).transpose(1, 2)",
        ".unflatten(-1, (self.heads, -1)).transpose(1, 2)",
        ".reshape({0}.shape[0], -1, self.heads, {0}.shape[-1] // self.heads).permute(0, 2, 1, 3)",
        f".view(-1, {t}, {g.m}, {d}).transpose(1, 2)",
        f".unflatten(2, (-1, {d})).transpose(1, 2)",
        ".view({0}.shape[0], {0}.shape[1], -1, self.size).transpose(1, 2)",
    ]
    return value + one(views, g.t).format(value)


FUSED = [
    "q, k, v = self.qkv(a).chunk(3, -1)",
    "q, k, v = self.qkv(a).split(self.inner, -1)",
    "q, k, v = self.qkv(a).view(*a.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)",
    "q, k, v = self.qkv(a).view(a.shape[0], a.shape[1], self.heads, -1).transpose(1, 2).chunk(3, -1)",
    "q, k, v = self.qkv(a).reshape(a.shape[0], -1, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)",
]
ATTEND = [
    "F.scaled_dot_product_attention(q, k, v)",
    "((q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])).softmax(-1) @ v",
    "((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v",
    "torch.einsum('bhij,bhjd->bhid', torch.einsum('bhid,bhjd->bhij', q, k).softmax(-1), v)",
    "((q @ k.transpose(-2, -1)) * self.size**-0.5).softmax(-1) @ v",
    "F.scaled_dot_product_attention(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, scale=1.0)",
]
JOIN = [
    *("y.transpose(1, 2).flatten(2)", "y.transpose(1, 2).reshape(*a.shape[:2], -1)"),
    "y.transpose(1, 2).contiguous().view(a.shape[0], a.shape[1], self.heads * self.size)",
]


def _attention(g: Gene, make: str, a: Shape, **parts: str) -> Layer:
    (t, c), d, inner = a, g.n, g.n * g.m
    attend = one([*ATTEND, f"((q @ k.transpose(-2, -1)) / {d**0.5}).softmax(-1) @ v"], g.u)
    code = f"{make}\ny = {attend}\n{'a + ' * (g.u % 2)}self.o({one(JOIN, g.t)})"
    return Layer(code, t, c, heads=g.m, size=d, inner=inner, scale=d**-0.5, o=f"nn.Linear({inner}, {c})", **parts)


@kind
def attention(g: Gene, a: Shape) -> Layer | None:
    """Attention of tokens to each other, with a fused projection."""
    if len(a) != 2 or g.n * g.m > 16:
        return None
    make = one(FUSED, g.s)
    if make.endswith(("k, v = self.qkv(a).chunk(3, -1)", "split(self.inner, -1)")):
        make += "\nq, k, v = " + ", ".join(_heads(x, g, a[0], g.n) for x in "qkv")
    return _attention(g, make, a, qkv=f"nn.Linear({a[1]}, {3 * g.n * g.m}, bias={g.u % 2 == 0})")


@kind
def cross(g: Gene, a: Shape, b: Shape) -> Layer | None:
    """Attention of tokens to tokens, themselves perhaps."""
    if len(a) != 2 or len(b) != 2 or g.n * g.m > 16:
        return None
    inner = g.n * g.m
    heads = ", ".join(_heads(x, g, n, g.n) for x, n in (("q", a[0]), ("k", b[0]), ("v", b[0])))
    layers = {
        "q": f"nn.Linear({a[1]}, {inner})",
        "k": f"nn.Linear({b[1]}, {inner})",
        "v": f"nn.Linear({b[1]}, {inner})",
    }
    return _attention(g, f"q, k, v = self.q(a), self.k(b), self.v(b)\nq, k, v = {heads}", a, **layers)


@kind
def mlp(g: Gene, a: Shape) -> Layer | None:
    if len(a) > 2:
        return None
    c = a[-1]
    out = c if g.s % 2 else g.m
    body = f"self.down({act('self.up(a)', g.t)})"
    return Layer(
        f"a + {body}" if g.s % 2 else body, *a[:-1], out, up=f"nn.Linear({c}, {g.n})", down=f"nn.Linear({g.n}, {out})"
    )


@kind
def mixer(g: Gene, a: Shape) -> Layer | None:
    """Layers over the tokens."""
    if len(a) != 2:
        return None
    t, c = a
    conv = f"nn.Conv1d({c}, {g.n}, 3, padding=1)"
    layers = [
        Layer("self.mix(a.transpose(1, 2)).transpose(1, 2)", g.n, c, mix=f"nn.Linear({t}, {g.n})"),
        Layer("a + self.o(self.mix(a.mT).relu()).mT", t, c, mix=f"nn.Linear({t}, {g.n})", o=f"nn.Linear({g.n}, {t})"),
        Layer("torch.einsum('btc,ts->bsc', a, self.mix)", g.n, c, mix=param(t, g.n)),
        Layer("self.mix(a.transpose(1, 2)).transpose(1, 2)", t, g.n, mix=conv),
        Layer("self.mix(a)", t, c, mix=f"nn.Conv1d({t}, {t}, 1)"),
        Layer("self.rnn(a)[0]", t, g.n, rnn=f"nn.GRU({c}, {g.n}, batch_first=True)"),
        Layer("self.rnn(a)[0]", t, g.n, rnn=f"nn.LSTM({c}, {g.n}, batch_first=True)"),
        Layer("(a @ a.transpose(1, 2)).softmax(-1) @ a", t, c),
        Layer("self.mix(a, a, a)[0]", t, c, mix=f"nn.MultiheadAttention({c}, {2 - c % 2}, batch_first=True)"),
        Layer("a.cumsum(1)", t, c),
    ]
    return one(layers, g.s)


@kind
def pool(g: Gene, a: Shape) -> Layer | None:
    if len(a) == 3:
        codes = ["a.mean((2, 3))", "a.amax((2, 3))", "F.adaptive_avg_pool2d(a, 1).flatten(1)", "a.flatten(2).mean(-1)"]
        return Layer(one(codes, g.s), a[0])
    if len(a) != 2:
        return None
    t, c = a
    rows = ["a.mean(1)", "a.sum(1)", "a.amax(1)", "a[:, 0]", "a[:, -1]", "a.logsumexp(1)", "a.sum(1) / a.shape[1]"]
    layers = [Layer(code, c) for code in rows]
    layers += [Layer(code, t) for code in ("a.mean(-1)", "a.amax(-1)", "a.sum(-1)")]
    layers.append(Layer("(a * (a @ self.query).softmax(1).unsqueeze(-1)).sum(1)", c, query=param(c)))
    layers.append(
        Layer("torch.einsum('btc,bt->bc', a, self.score(a)[..., 0].softmax(-1))", c, score=f"nn.Linear({c}, 1)")
    )
    return one(layers, g.s)


@kind
def gather(g: Gene, a: Shape) -> Layer | None:
    """Other orders of the units, or of the tokens."""
    if len(a) > 2:
        return None
    c, k = a[-1], g.n
    index = f"torch.tensor({[(unit * 2 + 1) % c for unit in range(k)]})"
    layers = [
        Layer("a[..., self.index]", *a[:-1], k, index=index),
        Layer("a.index_select(-1, self.index)", *a[:-1], k, index=index),
        Layer(f"a[..., [0, {c - 1}, 0]]", *a[:-1], 3),
        Layer("a.flip(-1)", *a),
        Layer("a.roll(1, -1)", *a),
        Layer("a.sort(-1).values", *a),
        Layer("a.cumsum(-1)", *a),
        Layer("a.flip(1)", *a),
        Layer("a[:, torch.arange(a.shape[1] - 1, -1, -1)]", *a),
        Layer("a.take_along_dim(a.argsort(-1), -1)", *a),
        Layer(f"a.topk({min(c, 2)}, -1).values", *a[:-1], min(c, 2)),
    ]
    return one(layers, g.s)


@kind
def unflatten(g: Gene, a: Shape) -> Layer | None:
    """Features as tokens: `(C,)` to `(T, C / T)`."""
    t = next((n for n in (g.n, g.m, 2, 3) if a[0] % n == 0 and a[0] > n), 0)
    if len(a) != 1 or not t:
        return None
    d = a[0] // t
    codes = [
        *("a.view(a.shape[0], self.parts, -1)", "a.view(-1, self.parts, self.size)", f"a.view(-1, {t}, {d})"),
        *(f"a.unflatten(1, ({t}, -1))", f"a.reshape(a.shape[0], -1, {d})", f"a.view(a.shape[0], {t}, -1)"),
        *("a.view(a.shape[0], a.shape[1] // self.size, self.size)", "a.unflatten(-1, (-1, self.size))"),
        "torch.stack(a.chunk(self.parts, -1), 1)",
    ]
    return Layer(one(codes, g.s), t, d, parts=t, size=d)


@kind
def repeat(g: Gene, a: Shape) -> Layer | None:
    if len(a) == 3:
        return None
    c, t = a[-1], g.n
    layers = [
        Layer("a.repeat_interleave(2, -1)", *a[:-1], 2 * c),
        Layer("torch.cat([a, a], -1)", *a[:-1], 2 * c),
        Layer(f"a.repeat({'1, ' * len(a)}2)", *a[:-1], 2 * c),
        Layer("torch.stack([a, a.tanh()], -1).flatten(-2)", *a[:-1], 2 * c),
        Layer("F.pad(a, (0, 2))", *a[:-1], c + 2),
        Layer("F.pad(a, (1, 0)) + self.bias", *a[:-1], c + 1, bias=param(c + 1)),
    ]
    if len(a) == 1:
        layers += [
            Layer(f"a[:, None].expand(-1, {t}, -1)", t, c),
            Layer(f"a.unsqueeze(1).repeat(1, {t}, 1)", t, c),
            Layer("torch.stack([a, a.tanh()], 1)", 2, c),
        ]
    return one(layers, g.s)


@kind
def contract(g: Gene, a: Shape) -> Layer | None:
    """Contractions with bare parameters, beyond those of `linear`."""
    if len(a) > 2:
        return None
    *front, c = a
    letters = "bt"[: len(a)]
    layers = [
        Layer(f"torch.einsum('{letters}c,c->{letters}', a, self.w)[..., None] * a", *a, w=param(c)),
        Layer("a @ self.u @ self.v", *front, c, u=param(c, g.n), v=param(g.n, c)),
        Layer("F.bilinear(a, a, self.w)", *front, g.n, w=param(g.n, c, c)),
        Layer("self.f(a, a)", *front, g.n, f=f"nn.Bilinear({c}, {c}, {g.n})"),
        Layer("F.linear(F.linear(a, self.w).relu(), self.w.t())", *a, w=param(g.n, c)),
    ]
    if len(a) == 1:
        layers += [
            Layer("torch.einsum('bc,hcd->bhd', a, self.w)", g.n, g.m, w=param(g.n, c, g.m)),
            Layer("torch.einsum('bc,hcd->bhd', a, self.w).flatten(1)", g.n * g.m, w=param(g.n, c, g.m)),
        ]
    else:
        layers += [
            Layer("torch.einsum('btc,tcd->bd', a, self.w)", g.n, w=param(*a, g.n)),
            Layer("torch.einsum('btc,tcd->btd', a, self.w)", a[0], g.n, w=param(*a, g.n)),
            Layer("torch.bmm(a.transpose(0, 1), self.w).transpose(0, 1)", a[0], g.n, w=param(*a, g.n)),
        ]
    return one(layers, g.s)


@kind
def meet(g: Gene, a: Shape, b: Shape) -> Layer | None:
    """Contractions of activations."""
    if len(a) != len(b) or len(a) > 2:
        return None
    if len(a) == 1:
        outer = [
            Layer("torch.einsum('bc,bd->bcd', a, b)", a[0], b[0]),
            Layer("(a.unsqueeze(2) * b.unsqueeze(1)).flatten(1)", a[0] * b[0]),
            Layer("torch.bmm(a[:, :, None], b[:, None]).softmax(-1)", a[0], b[0]),
        ]
        return one(outer, g.s)
    scores = Layer("(a @ b.transpose(1, 2)).softmax(-1) @ b", *a) if a[1] == b[1] else None
    kernel = Layer("a @ (b.mT @ b / b.shape[1]).tanh()", *a) if a[1] == b[1] else None
    both = Layer("torch.einsum('btc,btd->bcd', a, b)", a[1], b[1]) if a[0] == b[0] else None
    layers = [
        *(scores, kernel, both),
        Layer("a @ b.mT", a[0], b[0]) if a[1] == b[1] else None,
        Layer("a * (a * b).sum(-1, keepdim=True)", *a) if a == b else None,
        Layer("a * F.cosine_similarity(a, b, dim=-1)[..., None]", *a) if a == b else None,
    ]
    return one(layers, g.s)


@kind
def gate(g: Gene, a: Shape) -> Layer | None:
    """Softmax gates, and experts mixed by one."""
    if len(a) > 2:
        return None
    *front, c = a
    experts = f"nn.ModuleList(nn.Linear({c}, {g.m}) for _ in range({g.n}))"
    experts = {"gate": f"nn.Linear({c}, {g.n})", "experts": experts}
    layers = [
        Layer("a * a.softmax(-1)", *a),
        Layer("a * self.gate(a).softmax(-1)", *a, gate=f"nn.Linear({c}, {c})"),
        Layer(
            "w = self.gate(a).softmax(-1)\nsum(w[..., i : i + 1] * e(a) for i, e in enumerate(self.experts))",
            *front,
            g.m,
            **experts,
        ),
        Layer(
            "w = self.gate(a).softmax(-1)\n(torch.stack([e(a) for e in self.experts], -1) @ w[..., None])[..., 0]",
            *front,
            g.m,
            **experts,
        ),
        Layer(
            "torch.einsum('...e,ecd,...c->...d', self.gate(a).softmax(-1), self.w, a)",
            *front,
            g.m,
            gate=f"nn.Linear({c}, {g.n})",
            w=param(g.n, c, g.m),
        ),
        Layer("a.log_softmax(-1)", *a),
        Layer(
            "self.values[self.gate(a).softmax(-1).argmax(-1)] * a",
            *a,
            gate=f"nn.Linear({c}, {g.n})",
            values=param(g.n, c),
        ),
    ]
    return one(layers, g.s)


@kind
def scale(g: Gene, a: Shape) -> Layer | None:
    """Sums over the units, and factors that depend on how many there are."""
    if len(a) > 2:
        return None
    c = a[-1]
    codes = [
        *("a * a.sum(-1, keepdim=True)", "a * a.mean(-1, keepdim=True)", "a / (1 + a.abs().sum(-1, keepdim=True))"),
        *("a / a.shape[-1]", "a * a.shape[-1] ** -0.5", "a / math.sqrt(self.dim)", "a * self.factor", f"a / {c}"),
        *("a + a.amax(-1, keepdim=True)", "(a.exp() + 1).log() / self.dim", "a - a.logsumexp(-1, keepdim=True)"),
        *("a * a.std(-1, keepdim=True)", "a * (a.sum(-1, keepdim=True) / a.shape[-1])"),
    ]
    return None if c < 2 else Layer(one(codes, g.s), *a, dim=c, factor=c**-0.5)


# ------------------------------------------------------------------ images: (C, H, W)


def _reach(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@kind
def conv(g: Gene, a: Shape) -> Layer | None:
    if len(a) != 3:
        return None
    c, h, w = a
    kernel, stride, padding, dilation = one([(3, 1, 1, 1), (1, 1, 0, 1), (3, 1, 0, 1), (3, 2, 1, 1), (3, 1, 2, 2)], g.s)
    groups = one([1, 1, g.m if c % g.m == 0 else 1, c], g.t)
    out = c * one([1, 1, 2], g.u) if groups == c else -(-g.n // groups) * groups
    more = f"stride={stride}, padding={padding}, dilation={dilation}, groups={groups}, bias={g.u % 2 == 0}"
    size = [_reach(n, kernel, stride, padding, dilation) for n in (h, w)]
    code = act("self.conv(a)", g.u) if g.u > 5 else "self.conv(a)"
    if out == c and size == [h, w] and g.s % 2:
        code = f"a + {code}"
    return Layer(code, out, *size, conv=f"nn.Conv2d({c}, {out}, {kernel}, {more})")


@kind
def deconv(g: Gene, a: Shape) -> Layer | None:
    if len(a) != 3:
        return None
    c, h, w = a
    groups = one([1, g.m if c % g.m == 0 else 1, c], g.t)
    out = -(-g.n // groups) * groups
    if g.s % 2:
        return Layer("self.conv(a)", out, 2 * h, 2 * w, conv=f"nn.ConvTranspose2d({c}, {out}, 2, 2, groups={groups})")
    return Layer("self.conv(a)", out, h, w, conv=f"nn.ConvTranspose2d({c}, {out}, 3, 1, 1, groups={groups})")


@kind
def norm2d(g: Gene, a: Shape) -> Layer | None:
    if len(a) != 3 or a[1] * a[2] < 2:
        return None
    c = a[0]
    groups = g.m if c % g.m == 0 else 1
    kept = "affine=True, track_running_stats=True"
    norms = [
        *(f"nn.BatchNorm2d({c})", f"nn.GroupNorm({groups}, {c})", f"nn.InstanceNorm2d({c}, affine=True)"),
        *(f"nn.InstanceNorm2d({c})", f"nn.GroupNorm(1, {c})", f"nn.GroupNorm({c}, {c})"),
        *(f"nn.BatchNorm2d({c}, affine=False)", f"nn.InstanceNorm2d({c}, {kept})", f"nn.LayerNorm({c})"),
    ]
    norm = one([*norms, f"nn.LayerNorm([{c}, {a[1]}, {a[2]}])"], g.s)
    code = "self.norm(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)" if norm == f"nn.LayerNorm({c})" else "self.norm(a)"
    return Layer(code if g.t % 2 else act(code, g.u), *a, norm=norm)


@kind
def resize(g: Gene, a: Shape) -> Layer | None:
    """Pooling, upsampling, and places exchanged for channels."""
    if len(a) != 3:
        return None
    c, h, w = a
    layers = [Layer("F.avg_pool2d(a, 3, 1, 1)", *a), Layer("F.interpolate(a, scale_factor=2)", c, 2 * h, 2 * w)]
    layers += [Layer("F.interpolate(a, scale_factor=2, mode='bilinear')", c, 2 * h, 2 * w)]
    layers += [Layer("F.adaptive_avg_pool2d(a, 1)", c, 1, 1), Layer("F.adaptive_max_pool2d(a, (2, 1))", c, 2, 1)]
    if h % 2 == w % 2 == 0:
        layers += [Layer("F.max_pool2d(a, 2)", c, h // 2, w // 2), Layer("F.avg_pool2d(a, 2)", c, h // 2, w // 2)]
        layers += [Layer("F.pixel_unshuffle(a, 2)", 4 * c, h // 2, w // 2)]
        layers += [Layer("torch.cat([a[:, :, ::2], a[:, :, 1::2]], 1)", 2 * c, h // 2, w)]
    if c % 4 == 0:
        layers += [Layer("F.pixel_shuffle(a, 2)", c // 4, 2 * h, 2 * w)] * 2
    return one(layers, g.s)


@kind
def channels(g: Gene, a: Shape) -> Layer | None:
    """Gates over channels, shuffles of them, and more of them."""
    if len(a) != 3:
        return None
    c, h, w = a
    k = g.m if c % g.m == 0 else 1
    squeeze = {"down": f"nn.Conv2d({c}, {g.n}, 1)", "up": f"nn.Conv2d({g.n}, {c}, 1)"}
    dense = {"down": f"nn.Linear({c}, {g.n})", "up": f"nn.Linear({g.n}, {c})"}
    shuffled = "a.view(a.shape[0], {}, {}, a.shape[2], a.shape[3]).transpose(1, 2).{}"
    layers = [
        Layer("a * self.up(self.down(a.mean((2, 3))).relu()).sigmoid()[:, :, None, None]", *a, **dense),
        Layer("a * self.up(F.silu(self.down(F.adaptive_avg_pool2d(a, 1)))).sigmoid()", *a, **squeeze),
        Layer(shuffled.format("self.groups", "a.shape[1] // self.groups", "reshape(a.shape)"), *a, groups=k),
        Layer(shuffled.format("self.groups", "-1", "flatten(1, 2)"), *a, groups=k),
        Layer(shuffled.format(k, c // k, f"reshape(-1, {c}, {h}, {w})"), *a),
        Layer("self.shuffle(a)", *a, shuffle=f"nn.ChannelShuffle({k})"),
        Layer("F.pad(a, (0, 0, 0, 0, 0, 2))", c + 2, h, w),
        Layer("F.pad(a, (0, 0, 0, 0, 1, 1)) + self.bias", c + 2, h, w, bias=param(c + 2, 1, 1)),
        Layer(
            "a * self.conv(torch.cat([a.mean(1, keepdim=True), a.amax(1, keepdim=True)], 1)).sigmoid()",
            *a,
            conv="nn.Conv2d(2, 1, 3, padding=1)",
        ),
        Layer(
            "a * self.conv(a.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2)[..., None]",
            *a,
            conv="nn.Conv1d(1, 1, 3, padding=1)",
        ),
        Layer("a / (1 + a.norm(dim=1, keepdim=True))", *a),
        Layer("a * a.flatten(2).softmax(-1).view_as(a)", *a),
        Layer("a.unflatten(1, (self.groups, -1)).sum(1)", c // k, h, w, groups=k),
        Layer("a.unflatten(1, (self.groups, -1)).amax(2)", k, h, w, groups=k),
    ]
    return one(layers, g.s)


@kind
def turn(g: Gene, a: Shape) -> Layer | None:
    """Images as tokens, and tokens as images."""
    if len(a) == 3:
        c, h, w = a
        codes = ["a.flatten(2).transpose(1, 2)", "a.permute(0, 2, 3, 1).flatten(1, 2)", f"a.view(-1, {c}, {h * w}).mT"]
        return Layer(one([*codes, "a.permute(0, 2, 3, 1).reshape(a.shape[0], -1, a.shape[1])"], g.s), h * w, c)
    if len(a) == 2 and a[0] % 2 == 0:
        t, c = a
        codes = [
            "a.transpose(1, 2).unflatten(2, (2, -1))",
            "a.transpose(1, 2).reshape(a.shape[0], -1, 2, a.shape[1] // 2)",
        ]
        return Layer(one([*codes, f"a.mT.reshape(-1, {c}, 2, {t // 2})"], g.s), c, 2, t // 2)
    return None


IMAGES = [*("conv", "norm2d", "pointwise", "channels") * 2, "combine", "cat", "resize", "deconv", "halves", "cut"]
IMAGES += ["conv", "pool", "flatten", "turn", "gain", "again", "mlp", "attention", "cross", "linear"]
TOKENS = [
    *("linear", "mlp", "attention", "cross", "glu", "combine", "norm") * 2,
    "pointwise",
    "cat",
    "halves",
    "mixer",
    "pool",
]
TOKENS += ["gather", "cut", "flatten", "unflatten", "repeat", "gain", "contract", "meet", "gate", "scale"]
TOKENS += ["again", "tied"]
