"""Vision networks that mix tokens: by attention, by MLPs, by pooling; the way people write them, in miniature."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from zoo.architecture import Architecture


def images(*shape):
    return lambda batch: (torch.randn(batch, *shape),)


def weights(axes, others=""):
    return (*(axis.replace("[", ".weight[") for axis in axes.split()), *others.split())


def ends(stem, head):
    return {f"{stem}.weight[1]": "input", f"{head}.weight[0]": "output", f"{head}.bias[0]": "output"}


PLACES = "^is the output extent of"  # tokens are places of the image
LOOKED_UP = "looks its units up by the data"

TAKEN = "has one entry to be repeated|is the output extent|takes one of its units"


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    def __init__(self, dim, attn, hidden):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), attn
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, channels, dim, patch):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class FusedAttention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x):
        B, N, C = x.shape  # noqa: N806
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class ManualAttention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, dim * 3, bias=False), nn.Linear(dim, dim)

    def forward(self, x):
        B, N, C = x.shape  # noqa: N806
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q @ k.transpose(-2, -1)) * self.scale
        attn = attn.softmax(dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


class SeparateAttention(nn.Module):
    def __init__(self, dim, heads, dim_head):
        super().__init__()
        inner_dim = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, inner_dim, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(inner_dim, dim), nn.Dropout(0.1))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        dots = torch.matmul(q, k.transpose(-1, -2)) * self.scale
        out = torch.matmul(F.softmax(dots, dim=-1), v)
        return self.to_out(out.transpose(1, 2).reshape(b, n, -1))


class LinearAttention(nn.Module):
    """Of Katharopoulos et al.: no softmax, so that the sum over the tokens comes first."""

    def __init__(self, dim, heads, dim_head, eps=1e-6):
        super().__init__()
        self.heads, self.eps = heads, eps
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, heads * dim_head) for _ in range(3))
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1) for f in (self.to_q, self.to_k, self.to_v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        kv = torch.einsum("nshd,nshm->nhmd", k, v)
        z = 1 / (torch.einsum("nlhd,nhd->nlh", q, k.sum(dim=1)) + self.eps)
        out = torch.einsum("nlhd,nhmd,nlh->nlhm", q, kv, z)
        return self.to_out(out.reshape(b, n, -1))


class ViT(nn.Module):
    def __init__(self, attention, dim, hidden, depth=2):
        super().__init__()
        self.patch_embed = PatchEmbed(3, dim, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 7, dim) * 0.02)
        self.blocks = nn.ModuleList([Block(dim, attention(), hidden) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 4)

    def forward(self, x):
        x = self.patch_embed(x)
        cls_tokens = self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat((cls_tokens, x), dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0])


def posemb_sincos(x, temperature=10000):
    _, n, dim = x.shape
    omega = torch.arange(dim // 2, device=x.device, dtype=x.dtype) / (dim // 2)
    angles = torch.arange(n, device=x.device, dtype=x.dtype)[:, None] / temperature**omega
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class SimpleViT(nn.Module):
    def __init__(self, dim=12, hidden=17, computed=True, attn=None):
        super().__init__()
        self.patch_embed = PatchEmbed(3, dim, 2)
        self.computed = computed
        self.block1 = Block(dim, attn or SeparateAttention(dim, 2, 5), hidden)
        self.block2 = Block(dim, SeparateAttention(dim, 5, 2), hidden)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 4)

    def forward(self, x):
        x = self.patch_embed(x)
        if self.computed:
            x = x + posemb_sincos(x)
        x = self.block2(self.block1(x))
        return self.head(self.norm(x.mean(dim=1)))


def vit_einops():
    from einops import rearrange, repeat
    from einops.layers.torch import Rearrange, Reduce

    class Attention(nn.Module):
        def __init__(self, dim, heads, dim_head):
            super().__init__()
            self.heads, self.scale, self.norm = heads, dim_head**-0.5, nn.LayerNorm(dim)
            self.to_qkv = nn.Linear(dim, heads * dim_head * 3, bias=False)
            self.to_out = nn.Linear(heads * dim_head, dim)

        def forward(self, x):
            qkv = self.to_qkv(self.norm(x)).chunk(3, dim=-1)
            q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in qkv)
            attn = (torch.einsum("bhid,bhjd->bhij", q, k) * self.scale).softmax(dim=-1)
            return self.to_out(rearrange(attn @ v, "b h n d -> b n (h d)"))

    class Net(nn.Module):
        def __init__(self, dim=11, hidden=13):
            super().__init__()
            patches = Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=2, p2=2)
            self.to_patch_embedding = nn.Sequential(patches, nn.Linear(12, dim), nn.LayerNorm(dim))
            self.cls_token, self.pos = nn.Parameter(torch.randn(dim)), nn.Parameter(torch.randn(7, dim))
            self.attn, self.norm, self.mlp = Attention(dim, 3, 5), nn.LayerNorm(dim), Mlp(dim, hidden)
            self.pool, self.head = Reduce("b n d -> b d", "mean"), nn.Linear(dim, 4)

        def forward(self, img):
            x = self.to_patch_embedding(img)
            cls = repeat(self.cls_token, "d -> b 1 d", b=x.shape[0])
            x = torch.cat((cls, x), dim=1) + self.pos
            x = x + self.attn(x)
            return self.head(self.pool(x + self.mlp(self.norm(x))))

    return Net()


class TorchEncoder(nn.Module):
    def __init__(self, dim, heads, hidden, norm_first):
        super().__init__()
        self.patch_embed = PatchEmbed(3, dim, 4)
        self.pos_embed = nn.Embedding(6, dim)
        layer = nn.TransformerEncoderLayer(dim, heads, hidden, batch_first=True, norm_first=norm_first)
        norm = nn.LayerNorm(dim) if norm_first else None
        self.encoder = nn.TransformerEncoder(layer, 2, norm=norm, enable_nested_tensor=False)
        self.head = nn.Linear(dim, 4)

    def forward(self, x):
        x = self.patch_embed(x)
        x = x + self.pos_embed(torch.arange(x.shape[1], device=x.device))
        return self.head(self.encoder(x).mean(1))


def window_partition(x, window_size):
    B, H, W, C = x.shape  # noqa: N806
    x = x.view(B, H // window_size, window_size, W // window_size, window_size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window_size, window_size, C)


def window_reverse(windows, window_size, H, W):  # noqa: N803
    B = int(windows.shape[0] / (H * W / window_size / window_size))  # noqa: N806
    x = windows.view(B, H // window_size, W // window_size, window_size, window_size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, -1)


class WindowAttention(nn.Module):
    def __init__(self, dim, window_size, num_heads):
        super().__init__()
        self.window_size, self.num_heads, self.scale = window_size, num_heads, (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window_size - 1) ** 2, num_heads) * 0.1)
        coords = torch.stack(torch.meshgrid([torch.arange(window_size)] * 2, indexing="ij")).flatten(1)
        relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + window_size - 1
        self.register_buffer("relative_position_index", relative[..., 0] * (2 * window_size - 1) + relative[..., 1])
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x, mask=None):
        B_, N, C = x.shape  # noqa: N806
        qkv = self.qkv(x).reshape(B_, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        q = q * self.scale
        attn = q @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(self.window_size**2, self.window_size**2, -1).permute(2, 0, 1).contiguous()
        attn = attn + bias.unsqueeze(0)
        if mask is not None:
            nW = mask.shape[0]  # noqa: N806
            attn = attn.view(B_ // nW, nW, self.num_heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.num_heads, N, N)
        attn = torch.softmax(attn, dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(B_, N, C)
        return self.proj(x)


class SwinBlock(nn.Module):
    def __init__(self, dim, input_resolution, num_heads, hidden, window_size=2, shift_size=0):
        super().__init__()
        self.input_resolution, self.window_size, self.shift_size = input_resolution, window_size, shift_size
        self.norm1, self.attn = nn.LayerNorm(dim), WindowAttention(dim, window_size, num_heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, hidden)
        attn_mask = None
        if shift_size > 0:
            img_mask = torch.zeros((1, *input_resolution, 1))
            slices = (slice(0, -window_size), slice(-window_size, -shift_size), slice(-shift_size, None))
            for cnt, (h, w) in enumerate((h, w) for h in slices for w in slices):
                img_mask[:, h, w, :] = cnt
            mask = window_partition(img_mask, window_size).view(-1, window_size * window_size)
            attn_mask = mask.unsqueeze(1) - mask.unsqueeze(2)
            attn_mask = attn_mask.masked_fill(attn_mask != 0, -100.0).masked_fill(attn_mask == 0, 0.0)
        self.register_buffer("attn_mask", attn_mask)

    def forward(self, x):
        H, W = self.input_resolution  # noqa: N806
        B, L, C = x.shape  # noqa: N806
        assert L == H * W, "input feature has wrong size"
        shortcut = x
        x = self.norm1(x).view(B, H, W, C)
        if self.shift_size > 0:
            x = torch.roll(x, shifts=(-self.shift_size, -self.shift_size), dims=(1, 2))
        windows = window_partition(x, self.window_size).view(-1, self.window_size * self.window_size, C)
        windows = self.attn(windows, mask=self.attn_mask).view(-1, self.window_size, self.window_size, C)
        x = window_reverse(windows, self.window_size, H, W)
        if self.shift_size > 0:
            x = torch.roll(x, shifts=(self.shift_size, self.shift_size), dims=(1, 2))
        x = shortcut + x.view(B, H * W, C)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, input_resolution, dim, out):
        super().__init__()
        self.input_resolution = input_resolution
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, out, bias=False)

    def forward(self, x):
        H, W = self.input_resolution  # noqa: N806
        B, _, C = x.shape  # noqa: N806
        x = x.view(B, H, W, C)
        x0, x1 = x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :]
        x2, x3 = x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]
        x = torch.cat([x0, x1, x2, x3], -1).view(B, -1, 4 * C)
        return self.reduction(self.norm(x))


class Swin(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed, self.patch_norm = PatchEmbed(3, 6, 2), nn.LayerNorm(6)
        self.layer1 = nn.Sequential(SwinBlock(6, (4, 4), 3, 13), SwinBlock(6, (4, 4), 3, 13, shift_size=1))
        self.merge = PatchMerging((4, 4), 6, 10)
        self.layer2 = SwinBlock(10, (2, 2), 5, 17)
        self.norm, self.avgpool, self.head = nn.LayerNorm(10), nn.AdaptiveAvgPool1d(1), nn.Linear(10, 4)

    def forward(self, x):
        x = self.patch_norm(self.patch_embed(x))
        x = self.norm(self.layer2(self.merge(self.layer1(x))))
        x = self.avgpool(x.transpose(1, 2))
        return self.head(torch.flatten(x, 1))


class MBConv(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.BatchNorm2d(dim), nn.Conv2d(dim, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.GELU()),
            *(nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden), nn.GELU(), nn.Conv2d(hidden, dim, 1)),
        )

    def forward(self, x):
        return x + self.body(x)


class CoAtNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5), nn.GELU())
        self.conv = MBConv(5, 7)
        self.down, self.act = nn.Conv2d(5, 6, 2, 2), nn.GELU()
        self.transformer = Block(6, WindowAttention(6, 3, 2), 11)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.act(self.down(self.conv(self.stem(x))))
        b, c, h, w = x.shape
        x = self.transformer(x.flatten(2).transpose(1, 2))
        x = x.transpose(1, 2).reshape(b, c, h, w)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class MaxViT(nn.Module):
    def __init__(self, dim=6, size=2):
        super().__init__()
        self.size = size
        self.stem, self.conv = nn.Conv2d(3, dim, 3, 2, 1), MBConv(dim, 7)
        self.block, self.grid = (Block(dim, WindowAttention(dim, size, 3), hidden) for hidden in (11, 13))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 4)

    def forward(self, x):
        x = self.conv(self.stem(x)).permute(0, 2, 3, 1)
        B, H, W, C = x.shape  # noqa: N806
        s = self.size
        x = x.view(B, H // s, s, W // s, s, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, C)
        x = self.block(x)
        x = x.view(B, H // s, W // s, s, s, C).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, C)
        x = x.view(B, s, H // s, s, W // s, C).permute(0, 2, 4, 1, 3, 5).reshape(-1, s * s, C)
        x = self.grid(x)
        x = x.view(B, H // s, W // s, s, s, C).permute(0, 3, 1, 4, 2, 5).reshape(B, H, W, C)
        return self.head(self.norm(x).mean(dim=(1, 2)))


class MixerBlock(nn.Module):
    def __init__(self, num_patches, dim, tokens_hidden, channels_hidden):
        super().__init__()
        self.norm1, self.mlp_tokens = nn.LayerNorm(dim), Mlp(num_patches, tokens_hidden)
        self.norm2, self.mlp_channels = nn.LayerNorm(dim), Mlp(dim, channels_hidden)

    def forward(self, x):
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class Affine(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return self.alpha * x + self.beta


class ResMlpBlock(nn.Module):
    def __init__(self, num_patches, dim, hidden, init_values=0.3):
        super().__init__()
        self.norm1, self.linear_tokens = Affine(dim), nn.Linear(num_patches, num_patches)
        self.norm2, self.mlp_channels = Affine(dim), Mlp(dim, hidden)
        self.ls1 = nn.Parameter(init_values * torch.ones(dim))
        self.ls2 = nn.Parameter(init_values * torch.ones(dim))

    def forward(self, x):
        x = x + self.ls1 * self.linear_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.ls2 * self.mlp_channels(self.norm2(x))


class GatedMlpBlock(nn.Module):
    def __init__(self, num_patches, dim, hidden):
        super().__init__()
        self.norm, self.act = nn.LayerNorm(dim), nn.GELU()
        self.proj_in, self.proj_out = nn.Linear(dim, hidden * 2), nn.Linear(hidden, dim)
        self.sgu_norm, self.spatial = nn.LayerNorm(hidden), nn.Conv1d(num_patches, num_patches, kernel_size=1)

    def forward(self, x):
        u, v = self.act(self.proj_in(self.norm(x))).chunk(2, dim=-1)
        v = self.spatial(self.sgu_norm(v))
        return x + self.proj_out(u * v)


class TokenMixer(nn.Module):
    def __init__(self, dim, *blocks, norm=nn.LayerNorm):
        super().__init__()
        self.stem, self.blocks = PatchEmbed(3, dim, 2), nn.Sequential(*blocks)
        self.norm, self.head = norm(dim), nn.Linear(dim, 4)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.stem(x))).mean(dim=1))


class Residual(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x) + x


def conv_mixer(dim=7, depth=2, kernel_size=3):
    def block():
        depthwise = nn.Conv2d(dim, dim, kernel_size, groups=dim, padding="same"), nn.GELU(), nn.BatchNorm2d(dim)
        pointwise = nn.Conv2d(dim, dim, 1), nn.GELU(), nn.BatchNorm2d(dim)
        return nn.Sequential(Residual(nn.Sequential(*depthwise)), *pointwise)

    return nn.Sequential(
        *(nn.Conv2d(3, dim, 2, stride=2), nn.GELU(), nn.BatchNorm2d(dim), *(block() for _ in range(depth))),
        *(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(dim, 4)),
    )


class PoolFormerBlock(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.norm1, self.pool = nn.GroupNorm(1, dim), nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.norm2, self.fc1, self.fc2 = nn.GroupNorm(1, dim), nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)
        self.layer_scale_1 = nn.Parameter(0.3 * torch.ones(dim))
        self.layer_scale_2 = nn.Parameter(0.3 * torch.ones(dim))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.layer_scale_1.unsqueeze(-1).unsqueeze(-1) * (self.pool(y) - y)
        y = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + self.layer_scale_2.unsqueeze(-1).unsqueeze(-1) * y


class PoolFormer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.stage1 = nn.Conv2d(3, 5, 3, 2, 1), PoolFormerBlock(5, 11)
        self.down, self.stage2 = nn.Conv2d(5, 7, 3, 2, 1), PoolFormerBlock(7, 13)
        self.norm, self.head = nn.GroupNorm(1, 7), nn.Linear(7, 4)

    def forward(self, x):
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.head(self.norm(x).mean([-2, -1]))


class DETR(nn.Module):
    def __init__(self, hidden_dim=12, nheads=4):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 7, 3, 2, 1), nn.ReLU())
        self.conv = nn.Conv2d(7, hidden_dim, 1)
        self.transformer = nn.Transformer(hidden_dim, nheads, 1, 1, 17, batch_first=True)
        self.linear_class, self.linear_bbox = nn.Linear(hidden_dim, 6), nn.Linear(hidden_dim, 4)
        self.query_pos = nn.Parameter(torch.rand(5, hidden_dim))
        self.row_embed = nn.Parameter(torch.rand(8, hidden_dim // 2))
        self.col_embed = nn.Parameter(torch.rand(9, hidden_dim // 2))

    def forward(self, inputs):
        h = self.conv(self.backbone(inputs))
        H, W = h.shape[-2:]  # noqa: N806
        columns = self.col_embed[:W].unsqueeze(0).repeat(H, 1, 1)
        rows = self.row_embed[:H].unsqueeze(1).repeat(1, W, 1)
        pos = torch.cat([columns, rows], dim=-1).flatten(0, 1).unsqueeze(0)
        queries = self.query_pos.unsqueeze(0).repeat(h.shape[0], 1, 1)
        h = self.transformer(pos + 0.1 * h.flatten(2).permute(0, 2, 1), queries)
        return {"pred_logits": self.linear_class(h), "pred_boxes": self.linear_bbox(h).sigmoid()}


class ConvAttention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads, self.scale = num_heads, dim**-0.5
        self.conv_q, self.conv_k, self.conv_v = (
            nn.Sequential(nn.Conv2d(dim, dim, 3, stride, 1, groups=dim, bias=False), nn.BatchNorm2d(dim))
            for stride in (1, 2, 2)
        )
        self.proj_q, self.proj_k, self.proj_v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def heads(self, x):
        b, t, c = x.shape
        return x.view(b, t, self.num_heads, c // self.num_heads).transpose(1, 2)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = (conv(x).flatten(2).transpose(1, 2) for conv in (self.conv_q, self.conv_k, self.conv_v))
        q, k, v = self.heads(self.proj_q(q)), self.heads(self.proj_k(k)), self.heads(self.proj_v(v))
        score = torch.einsum("bhlk,bhtk->bhlt", q, k) * self.scale
        x = torch.einsum("bhlt,bhtv->bhlv", F.softmax(score, dim=-1), v)
        x = self.proj(x.transpose(1, 2).reshape(b, h * w, c))
        return x.transpose(1, 2).reshape(b, c, h, w)


class CvT(nn.Module):
    def __init__(self, dim=10, hidden=13):
        super().__init__()
        self.embed, self.embed_norm = nn.Conv2d(3, dim, 3, 2, 1), nn.BatchNorm2d(dim)
        self.attn, self.norm1 = ConvAttention(dim, 5), nn.GroupNorm(1, dim)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, hidden)
        self.head = nn.Linear(dim, 4)

    def forward(self, x):
        x = self.embed_norm(self.embed(x))
        x = x + self.attn(self.norm1(x))
        x = x.flatten(2).transpose(1, 2)
        x = x + self.mlp(self.norm2(x))
        return self.head(x.mean(dim=1))


class Perceiver(nn.Module):
    def __init__(self, channels=5, latents=7, dim=6):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.encode, self.norm_context = nn.Conv2d(3, channels, 3, 1, 1), nn.LayerNorm(channels)
        self.norm_latents = nn.LayerNorm(dim)
        self.cross = nn.MultiheadAttention(dim, 2, kdim=channels, vdim=channels, batch_first=True)
        self.block = Block(dim, SeparateAttention(dim, 3, 5), 11)
        self.head = nn.Linear(dim, 4)

    def forward(self, image):
        data = self.norm_context(self.encode(image).flatten(2).transpose(1, 2))
        x = self.latents.unsqueeze(0).repeat(image.shape[0], 1, 1)
        x = x + self.cross(self.norm_latents(x), data, data, need_weights=False)[0]
        return self.head(self.block(x).mean(dim=1))


class CLIP(nn.Module):
    def __init__(self, width=9, heads=3, embed_dim=7):
        super().__init__()
        self.visual = nn.Sequential(
            *(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 11, 3, 2, 1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(11, embed_dim, bias=False)),
        )
        self.token_embedding = nn.Embedding(13, width)
        self.positional_embedding = nn.Parameter(torch.randn(6, width) * 0.1)
        self.transformer = Block(width, FusedAttention(width, heads), 17)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, embed_dim) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.ones([]) * math.log(1 / 0.07))

    def encode_text(self, text):
        x = self.token_embedding(text) + self.positional_embedding
        x = self.ln_final(self.transformer(x))
        return x[torch.arange(x.shape[0]), text.argmax(dim=-1)] @ self.text_projection

    def forward(self, image, text):
        image_features, text_features = self.visual(image), self.encode_text(text)
        image_features = image_features / image_features.norm(dim=1, keepdim=True)
        text_features = text_features / text_features.norm(dim=1, keepdim=True)
        logits_per_image = self.logit_scale.exp() * image_features @ text_features.t()
        return logits_per_image, logits_per_image.t()


def modulate(x, shift, scale):
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class DiTBlock(nn.Module):
    def __init__(self, dim, num_heads, hidden):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.attn, self.mlp = FusedAttention(dim, num_heads), Mlp(dim, hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x, c):
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate_msa.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_msa, scale_msa))
        return x + gate_mlp.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


class DiT(nn.Module):
    def __init__(self, dim=10, patch_size=2, out_channels=3):
        super().__init__()
        self.patch_size, self.out_channels = patch_size, out_channels
        self.x_embedder, self.y_embedder = PatchEmbed(3, dim, patch_size), nn.Embedding(5, dim)
        self.t_embedder = nn.Sequential(nn.Linear(8, 7), nn.SiLU(), nn.Linear(7, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 9, dim), requires_grad=False)
        self.blocks = nn.ModuleList([DiTBlock(dim, 5, 13), DiTBlock(dim, 2, 13)])
        self.norm_final = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.adaLN_final = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        self.linear = nn.Linear(dim, patch_size * patch_size * out_channels)

    def unpatchify(self, x):
        c, p = self.out_channels, self.patch_size
        h = w = int(x.shape[1] ** 0.5)
        x = x.reshape(x.shape[0], h, w, p, p, c)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(x.shape[0], c, h * p, w * p)

    def forward(self, x, t, y):
        freqs = torch.exp(-math.log(10000) * torch.arange(4, dtype=t.dtype, device=t.device) / 4)
        args = t[:, None] * freqs[None]
        c = self.t_embedder(torch.cat([torch.cos(args), torch.sin(args)], dim=-1)) + self.y_embedder(y)
        x = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.adaLN_final(c).chunk(2, dim=1)
        return self.unpatchify(self.linear(modulate(self.norm_final(x), shift, scale)))


class MAE(nn.Module):
    def __init__(self, dim=9, decoder_dim=8, mask_ratio=0.5):
        super().__init__()
        self.mask_ratio = mask_ratio
        self.patch_embed, self.pos_embed = PatchEmbed(3, dim, 2), nn.Parameter(torch.randn(1, 12, dim))
        self.block, self.norm = Block(dim, ManualAttention(dim, 3), 13), nn.LayerNorm(dim)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_dim))
        self.decoder_pos_embed = nn.Parameter(torch.randn(1, 12, decoder_dim))
        self.decoder_block = Block(decoder_dim, FusedAttention(decoder_dim, 2), 11)
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, 12)

    def random_masking(self, x, noise):
        _, L, D = x.shape  # noqa: N806
        len_keep = int(L * (1 - self.mask_ratio))
        ids_shuffle = torch.argsort(noise, dim=1)
        ids_restore = torch.argsort(ids_shuffle, dim=1)
        ids_keep = ids_shuffle[:, :len_keep]
        return torch.gather(x, dim=1, index=ids_keep.unsqueeze(-1).repeat(1, 1, D)), ids_restore

    def forward(self, imgs, noise):
        x = self.patch_embed(imgs) + self.pos_embed
        x, ids_restore = self.random_masking(x, noise)
        x = self.decoder_embed(self.norm(self.block(x)))
        mask_tokens = self.mask_token.repeat(x.shape[0], ids_restore.shape[1] - x.shape[1], 1)
        x = torch.cat([x, mask_tokens], dim=1)
        x = torch.gather(x, dim=1, index=ids_restore.unsqueeze(-1).repeat(1, 1, x.shape[2]))
        x = self.decoder_block(x + self.decoder_pos_embed)
        return self.decoder_pred(self.decoder_norm(x))


def of_images_and_noise(batch):
    return torch.randn(batch, 3, 6, 8), torch.rand(batch, 12)


def of_noisy_images(batch):
    return torch.randn(batch, 3, 6, 6), 5 * torch.rand(batch), torch.arange(batch) % 5


def of_images_and_text(batch):
    return {"image": torch.randn(batch, 3, 9, 9), "text": torch.randint(0, 13, (batch, 6))}


# fmt: off
ARCHITECTURES = [
    Architecture("vit", lambda: ViT(lambda: FusedAttention(12, 3), 12, 17), images(3, 8, 12),
        grows=weights("patch_embed.proj[0] blocks.0.norm1[0] blocks.0.attn.qkv[0] blocks.0.attn.qkv[1] "
            "blocks.0.attn.proj[1] blocks.0.mlp.fc1[0] blocks.1.mlp.fc2[1] head[1]", "cls_token[2] pos_embed[2]"),
        stuck=ends("patch_embed.proj", "head") | {"pos_embed[1]": TAKEN}),
    Architecture("vit with scores by hand", lambda: ViT(lambda: ManualAttention(9, 3), 9, 7), images(3, 8, 12),
        grows=weights("patch_embed.proj[0] blocks.0.attn.qkv[0] blocks.0.attn.proj[0] blocks.0.attn.proj[1] "
            "blocks.0.mlp.fc1[0] blocks.1.norm2[0] norm[0]", "cls_token[2] pos_embed[2]"),
        stuck=ends("patch_embed.proj", "head") | {"pos_embed[1]": TAKEN}),
    Architecture("vit with an inner width of its own", lambda: ViT(lambda: SeparateAttention(11, 3, 5), 11, 13),
        images(3, 8, 12), stuck=ends("patch_embed.proj", "head") | {"pos_embed[1]": TAKEN},
        grows=weights("patch_embed.proj[0] blocks.0.attn.to_q[0] blocks.0.attn.to_k[0] blocks.0.attn.to_v[0] "
            "blocks.0.attn.to_v[1] blocks.1.attn.to_out.0[0] blocks.1.attn.to_out.0[1] blocks.1.mlp.fc1[0]",
            "cls_token[2] pos_embed[2]")),
    Architecture("vit with positions computed from its width", SimpleViT, images(3, 4, 6), longer=images(3, 6, 8),
        grows=weights("block1.attn.to_q[0] block1.attn.to_v[0] block1.attn.to_out.0[1] block1.mlp.fc1[0] "
            "block2.attn.to_k[0] block2.mlp.fc2[1]"),
        stuck=ends("patch_embed.proj", "head") | dict.fromkeys(
            weights("patch_embed.proj[0] block1.norm1[0] head[1]"), "numbers its units")),
    Architecture("vit with linear attention", lambda: SimpleViT(9, 17, False, LinearAttention(9, 2, 5)),
        images(3, 4, 6), longer=images(3, 6, 8), stuck=ends("patch_embed.proj", "head"),
        grows=weights("patch_embed.proj[0] block1.attn.to_v[0] block1.attn.to_out[1] block1.attn.to_q[1] "
            "block1.mlp.fc1[0] block2.attn.to_q[0] head[1]")),
    Architecture("vit einops", vit_einops, images(3, 4, 6),
        grows=weights("to_patch_embedding.1[0] to_patch_embedding.2[0] attn.norm[0] attn.to_qkv[0] attn.to_qkv[1] "
            "attn.to_out[1] mlp.fc1[0] head[1]", "cls_token[0] pos[1]"),
        stuck=ends("to_patch_embedding.1", "head") | {"pos[0]": "input|inserted"}),
    Architecture("torch encoder over patches", lambda: TorchEncoder(8, 2, 13, False), images(3, 8, 12),
        grows=weights("patch_embed.proj[0] pos_embed[1] encoder.layers.0.linear1[0] encoder.layers.1.linear2[1] "
            "encoder.layers.0.norm1[0] encoder.layers.1.self_attn.out_proj[0] head[1]",
            "encoder.layers.0.self_attn.in_proj_weight[1]"), longer=images(3, 8, 8),
        stuck=ends("patch_embed.proj", "head") | {"pos_embed.weight[0]": LOOKED_UP}),
    Architecture("torch encoder over patches with norm first", lambda: TorchEncoder(9, 3, 11, True), images(3, 8, 12),
        grows=weights("patch_embed.proj[0] pos_embed[1] encoder.layers.0.linear1[0] encoder.layers.1.linear2[1] "
            "encoder.norm[0] encoder.layers.1.self_attn.out_proj[1]", "encoder.layers.0.self_attn.in_proj_weight[0]"),
        stuck=ends("patch_embed.proj", "head") | {"pos_embed.weight[0]": LOOKED_UP}, longer=images(3, 8, 8)),
    Architecture("swin", Swin, images(3, 8, 8),
        grows=weights("patch_embed.proj[0] patch_norm[0] layer1.0.attn.qkv[1] layer1.0.mlp.fc1[0] layer1.1.norm1[0] "
            "merge.norm[0] merge.reduction[0] merge.reduction[1] layer2.mlp.fc2[1]",
            "layer1.0.attn.relative_position_bias_table[1]"),
        stuck=ends("patch_embed.proj", "head") | {"layer2.attn.relative_position_bias_table[0]": LOOKED_UP}),
    Architecture("coatnet", CoAtNet, images(3, 12, 12),
        grows=weights("stem.0[0] conv.body.1[0] conv.body.4[0] conv.body.6[0] down[0] down[1] transformer.attn.qkv[1] "
            "transformer.mlp.fc1[0] head[1]"),
        stuck=ends("stem.0", "head") | {"transformer.attn.relative_position_bias_table[0]": LOOKED_UP}),
    Architecture("maxvit", MaxViT, images(3, 8, 8), longer=images(3, 12, 8),
        grows=weights("stem[0] conv.body.1[0] block.norm1[0] block.attn.proj[0] block.mlp.fc1[0] grid.mlp.fc1[0] "
            "grid.attn.qkv[1] norm[0]", "grid.attn.relative_position_bias_table[1]"),
        stuck=ends("stem", "head") | {"block.attn.relative_position_bias_table[0]": LOOKED_UP}),
    Architecture("mlp-mixer", lambda: TokenMixer(7, MixerBlock(12, 7, 5, 12), MixerBlock(12, 7, 5, 12)),
        images(3, 6, 8), grows=weights("stem.proj[0] blocks.0.norm1[0] blocks.0.mlp_tokens.fc1[0] "
            "blocks.1.mlp_tokens.fc2[1] blocks.0.mlp_channels.fc1[0] blocks.1.mlp_channels.fc2[0] norm[0]"),
        stuck=ends("stem.proj", "head") | {"blocks.0.mlp_tokens.fc1.weight[1]": PLACES,
            "blocks.0.mlp_tokens.fc2.weight[0]": PLACES}),
    Architecture("resmlp", lambda: TokenMixer(7, ResMlpBlock(12, 7, 11), ResMlpBlock(12, 7, 5), norm=Affine),
        images(3, 6, 8), grows=weights("stem.proj[0] blocks.0.mlp_channels.fc1[0] blocks.1.mlp_channels.fc2[1] head[1]",
            "blocks.0.norm1.alpha[0] blocks.0.ls1[0] blocks.1.ls2[0] norm.beta[0]"),
        stuck=ends("stem.proj", "head") | {"blocks.0.linear_tokens.weight[0]": PLACES,
            "blocks.0.linear_tokens.weight[1]": PLACES}),
    Architecture("gmlp", lambda: TokenMixer(7, GatedMlpBlock(12, 7, 5), GatedMlpBlock(12, 7, 11)), images(3, 6, 8),
        grows=weights("stem.proj[0] blocks.0.norm[0] blocks.0.proj_in[0] blocks.0.proj_in[1] blocks.0.sgu_norm[0] "
            "blocks.1.proj_out[1] blocks.1.proj_out[0] head[1]"),
        stuck=ends("stem.proj", "head") | {"blocks.0.spatial.weight[0]": PLACES,
            "blocks.0.spatial.weight[1]": PLACES}),
    Architecture("convmixer", conv_mixer, images(3, 8, 8), longer=images(3, 6, 10), stuck=ends("0", "7"),
        grows=weights("0[0] 2[0] 3.0.fn.0[0] 3.0.fn.2[0] 3.1[0] 3.1[1] 4.1[0] 7[1]")),
    Architecture("poolformer", PoolFormer, images(3, 8, 8), longer=images(3, 12, 9), stuck=ends("stem", "head"),
        grows=weights("stem[0] stage1.norm1[0] stage1.fc1[0] stage1.fc2[0] down[0] stage2.fc2[1] norm[0]",
            "stage1.layer_scale_1[0] stage2.layer_scale_2[0]")),
    Architecture("detr", DETR, images(3, 16, 24), longer=images(3, 20, 16),
        grows=weights("backbone.0[0] backbone.2[0] conv[1] transformer.encoder.layers.0.linear1[0] "
            "transformer.decoder.layers.0.linear1[0] transformer.decoder.layers.0.linear2[1]"),
        stuck=ends("backbone.0", "linear_class") | {"linear_bbox.weight[0]": "output", "query_pos[0]": "output",
            "row_embed[0]": "cuts it where the data say", "col_embed[0]": "cuts it where the data say"}),
    Architecture("cvt", CvT, images(3, 8, 8), longer=images(3, 12, 6), stuck=ends("embed", "head"),
        grows=weights("embed[0] embed_norm[0] norm1[0] attn.conv_q.0[0] attn.proj_q[1] attn.proj_v[1] attn.proj[0] "
            "mlp.fc1[0] mlp.fc2[1] head[1]")),
    Architecture("perceiver", Perceiver, images(3, 4, 4), longer=images(3, 5, 6),
        grows=weights("encode[0] norm_context[0] norm_latents[0] block.attn.to_q[0] block.attn.to_v[0] "
            "block.attn.to_out.0[1] block.mlp.fc1[0] head[1]", "latents[0] latents[1] cross.k_proj_weight[1]"),
        stuck=ends("encode", "head")),
    Architecture("clip", CLIP, of_images_and_text,
        grows=weights("visual.0[0] visual.2[0] visual.6[1] token_embedding[1] transformer.norm1[0] "
            "transformer.mlp.fc1[0] ln_final[0]", "positional_embedding[1] text_projection[0]"),
        stuck={"visual.0.weight[1]": "input", "token_embedding.weight[0]": LOOKED_UP,
            "positional_embedding[0]": "input"}),
    Architecture("diffusion transformer", DiT, of_noisy_images,
        grows=weights("x_embedder.proj[0] y_embedder[1] t_embedder.0[0] t_embedder.2[0] "
            "blocks.0.adaLN_modulation.1[0] blocks.0.adaLN_modulation.1[1] blocks.0.mlp.fc1[0] blocks.1.attn.qkv[1] "
            "linear[1]", "pos_embed[2]"),
        stuck=ends("x_embedder.proj", "linear") | {"y_embedder.weight[0]": LOOKED_UP, "pos_embed[1]": PLACES,
            "linear.weight[0]": "output|pairs", "linear.bias[0]": "output|pairs", "t_embedder.0.weight[1]": "made"}),
    Architecture("masked autoencoder", MAE, of_images_and_noise,
        grows=weights("patch_embed.proj[0] block.mlp.fc1[0] norm[0] decoder_embed[0] decoder_embed[1] "
            "decoder_block.norm1[0] decoder_pred[1]", "pos_embed[2] mask_token[2] decoder_pos_embed[2]"),
        stuck=ends("patch_embed.proj", "decoder_pred") | {
            "pos_embed[1]": PLACES, "decoder_pos_embed[1]": "sort"}),
]
