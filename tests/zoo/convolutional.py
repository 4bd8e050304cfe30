"""Convolutional networks the way people write them, in miniature."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from zoo.architecture import Architecture


def images(*shape):
    return lambda batch: (torch.randn(batch, *shape),)


def weights(axes, others=""):
    return (*(axis.replace("[", ".weight[") for axis in axes.split()), *others.split())


def ends(stem, head, into="input", out="output"):
    return {f"{stem}.weight[1]": into, f"{head}.weight[0]": out, f"{head}.bias[0]": out}


def he(module):
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def conv_bn(inp, out, kernel=3, stride=1, groups=1, act=nn.ReLU, dilation=1):
    return nn.Sequential(
        nn.Conv2d(inp, out, kernel, stride, kernel // 2 * dilation, dilation, groups, bias=False),
        nn.BatchNorm2d(out),
        act(),
    )


# ---------------------------------------------------------------- classics


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 23)
        self.fc2, self.fc3 = nn.Linear(23, 19), nn.Linear(19, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 16 * 5 * 5)
        x = F.relu(self.fc2(F.relu(self.fc1(x))))
        return self.fc3(x)


class FlattenLeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 2, 5, padding=2), nn.Conv2d(2, 3, 5)
        self.fc1, self.fc2 = nn.Linear(3 * 4 * 4, 11), nn.Linear(11, 3)

    def forward(self, x):
        x = F.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.tanh(self.fc1(x.flatten(1)))
        return F.log_softmax(self.fc2(x), dim=1)


class VGG(nn.Module):
    def __init__(self, cfg=(5, "M", 7, 11, "M")):
        super().__init__()
        layers, channels = [], 3
        for v in cfg:
            if v == "M":
                layers += [nn.MaxPool2d(2, 2)]
            else:
                layers += [nn.Conv2d(channels, v, 3, padding=1), nn.BatchNorm2d(v), nn.ReLU(inplace=True)]
                channels = v
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.fc1, self.drop, self.fc2 = nn.Linear(channels * 2 * 2, 13), nn.Dropout(), nn.Linear(13, 3)

    def forward(self, x):
        x = torch.flatten(self.avgpool(self.features(x)), 1)
        return self.fc2(self.drop(F.relu(self.fc1(x))))


def network_in_network():
    return nn.Sequential(
        *(nn.Conv2d(3, 7, 5, padding=2), nn.ReLU(), nn.Conv2d(7, 5, 1), nn.ReLU(), nn.Conv2d(5, 6, 1), nn.ReLU()),
        *(nn.MaxPool2d(3, stride=2, padding=1), nn.Dropout(0.5), nn.Conv2d(6, 11, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(11, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inplanes, planes, stride=1, downsample=None, norm=nn.BatchNorm2d, attention=nn.Identity):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False), norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), norm(planes)
        self.attention = attention(planes)
        self.downsample = downsample

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.attention(self.bn2(self.conv2(out)))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 2

    def __init__(self, inplanes, planes, stride=1, downsample=None, norm=nn.BatchNorm2d, groups=1):
        super().__init__()
        width = planes * groups
        self.conv1, self.bn1 = nn.Conv2d(inplanes, width, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, planes * 2, 1, bias=False), norm(planes * 2)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Res2Bottleneck(nn.Module):
    expansion = 2

    def __init__(self, inplanes, width, stride=1, downsample=None, norm=nn.BatchNorm2d, scale=3):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inplanes, width * scale, 1, bias=False), norm(width * scale)
        self.nums = scale - 1
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, stride, 1, bias=False) for _ in range(self.nums))
        self.bns = nn.ModuleList(norm(width) for _ in range(self.nums))
        self.conv3, self.bn3 = nn.Conv2d(width * scale, width * 2, 1, bias=False), norm(width * 2)
        self.relu, self.downsample, self.width = nn.ReLU(inplace=True), downsample, width

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        spx = torch.split(out, self.width, 1)
        outs = []
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            sp = spx[i] if i == 0 else outs[-1] + spx[i]
            outs.append(self.relu(bn(conv(sp))))
        out = torch.cat((*outs, spx[self.nums]), 1)
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, block, planes, layers, stem=7, strides=(1, 2), norm=nn.BatchNorm2d, **options):
        super().__init__()
        self.block, self.norm, self.options = block, norm, options
        self.inplanes = stem
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 3, stride=1, padding=1, bias=False), norm(stem)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._make_layer(planes[0], layers[0], strides[0])
        self.layer2 = self._make_layer(planes[1], layers[1], strides[1])
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(self.inplanes, 5)
        self.apply(he)

    def _make_layer(self, planes, blocks, stride):
        out, downsample = planes * self.block.expansion, None
        if stride != 1 or self.inplanes != out:
            downsample = nn.Sequential(nn.Conv2d(self.inplanes, out, 1, stride, bias=False), self.norm(out))
        layers = [self.block(self.inplanes, planes, stride, downsample, norm=self.norm, **self.options)]
        layers += [self.block(out, planes, norm=self.norm, **self.options) for _ in range(1, blocks)]
        self.inplanes = out
        return nn.Sequential(*layers)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreActBlock(nn.Module):
    def __init__(self, in_planes, planes, stride=1, dropout=0.0):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_planes), nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.dropout = dropout
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False))

    def forward(self, x):
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = F.relu(self.bn2(self.conv1(out)))
        out = F.dropout(out, p=self.dropout, training=self.training)
        out = self.conv2(out)
        out += shortcut
        return out


def preact_resnet():
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1, bias=False), PreActBlock(6, 6), PreActBlock(6, 11, 2), PreActBlock(11, 11)),
        *(nn.BatchNorm2d(11), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(11, 5)),
    )


class WideResNet(nn.Module):
    def __init__(self, widen_factor=3, dropout=0.3):
        super().__init__()
        a, b, c = 5, 2 * widen_factor, 3 * widen_factor
        self.conv1 = nn.Conv2d(3, a, 3, padding=1, bias=False)
        self.block1, self.block2 = PreActBlock(a, b, 1, dropout), PreActBlock(b, c, 2, dropout)
        self.bn1, self.fc = nn.BatchNorm2d(c), nn.Linear(c, 4)
        self.n_channels = c

    def forward(self, x):
        out = self.block2(self.block1(self.conv1(x)))
        out = F.avg_pool2d(F.relu(self.bn1(out)), 4)
        out = out.view(-1, self.n_channels)
        return self.fc(out)


class RepVGGBlock(nn.Module):
    def __init__(self, inp, out, stride=1):
        super().__init__()
        self.nonlinearity = nn.ReLU()
        self.rbr_identity = nn.BatchNorm2d(inp) if out == inp and stride == 1 else None
        self.rbr_dense = conv_bn(inp, out, 3, stride, act=nn.Identity)
        self.rbr_1x1 = conv_bn(inp, out, 1, stride, act=nn.Identity)

    def forward(self, inputs):
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(inputs)
        return self.nonlinearity(self.rbr_dense(inputs) + self.rbr_1x1(inputs) + id_out)


class Classifier(nn.Module):
    def __init__(self, *body, channels, classes=5):
        super().__init__()
        self.features = nn.Sequential(*body)
        self.classifier = nn.Linear(channels, classes)
        self.apply(he)

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


# ---------------------------------------------------------------- attention over channels and places


class SELayer(nn.Module):
    def __init__(self, channel, reduced=None, gate=nn.Sigmoid):
        super().__init__()
        reduced = reduced or channel // 2
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(channel, reduced), nn.ReLU(inplace=True), nn.Linear(reduced, channel), gate())

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class CBAM(nn.Module):
    def __init__(self, channel, reduction=2):
        super().__init__()
        reduced = channel // reduction
        self.mlp = nn.Sequential(nn.Conv2d(channel, reduced, 1), nn.ReLU(), nn.Conv2d(reduced, channel, 1))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x):
        avg = self.mlp(F.adaptive_avg_pool2d(x, 1))
        top = self.mlp(F.adaptive_max_pool2d(x, 1))
        x = torch.sigmoid(avg + top) * x
        places = torch.cat([torch.mean(x, dim=1, keepdim=True), torch.max(x, dim=1, keepdim=True)[0]], dim=1)
        return torch.sigmoid(self.spatial(places)) * x


def conv_dw(inp, out, stride):
    return nn.Sequential(*conv_bn(inp, inp, 3, stride, groups=inp), *conv_bn(inp, out, 1))


class MBConv(nn.Module):
    def __init__(self, inp, out, stride, expand, squeeze=0, act=nn.SiLU, gate=nn.Sigmoid, drop=0.0):
        super().__init__()
        hidden = inp * expand
        self.expand = conv_bn(inp, hidden, 1, act=act) if expand != 1 else nn.Identity()
        self.depthwise = conv_bn(hidden, hidden, 5, stride, groups=hidden, act=act)
        self.se = SELayer(hidden, squeeze, gate) if squeeze else nn.Identity()
        self.project = conv_bn(hidden, out, 1, act=nn.Identity)
        self.skip, self.drop = stride == 1 and inp == out, drop

    def forward(self, inputs):
        x = self.project(self.se(self.depthwise(self.expand(inputs))))
        if self.skip:
            if self.training and self.drop:
                keep = torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device) + 1 - self.drop
                x = x / (1 - self.drop) * torch.floor(keep)
            x = x + inputs
        return x


def mobilenet_v2():
    last = MBConv(7, 7, 1, 2, act=nn.ReLU6), conv_bn(7, 11, 1, act=nn.ReLU6)
    first = conv_bn(3, 5, 3, 2, act=nn.ReLU6), MBConv(5, 5, 1, 1, act=nn.ReLU6), MBConv(5, 7, 2, 3, act=nn.ReLU6)
    return Classifier(*first, *last, channels=11)


def mobilenet_v3():
    first = conv_bn(3, 5, 3, 2, act=nn.Hardswish), MBConv(5, 5, 1, 2, 3, nn.ReLU, nn.Hardsigmoid)
    return Classifier(*first, MBConv(5, 7, 2, 3, 4, nn.Hardswish, nn.Hardsigmoid), channels=7)


def efficientnet():
    blocks = MBConv(5, 4, 1, 1, 2), MBConv(4, 4, 1, 3, 5, drop=0.2), MBConv(4, 7, 2, 2, 3)
    return Classifier(conv_bn(3, 5, 3, 2, act=nn.SiLU), *blocks, conv_bn(7, 11, 1, act=nn.SiLU), channels=11)


def channel_shuffle(x, groups):
    batchsize, num_channels, height, width = x.size()
    channels_per_group = num_channels // groups
    x = x.view(batchsize, groups, channels_per_group, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batchsize, num_channels, height, width)


class ShuffleV2Unit(nn.Module):
    def __init__(self, inp, oup, stride, mid):
        super().__init__()
        self.stride = stride
        half = oup // 2
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(*conv_bn(inp, inp, 3, stride, inp, nn.Identity), *conv_bn(inp, half, 1))
        self.branch2 = nn.Sequential(
            *conv_bn(inp if stride > 1 else half, mid, 1),
            *conv_bn(mid, mid, 3, stride, mid, nn.Identity),
            *conv_bn(mid, half, 1),
        )

    def forward(self, x):
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


def shufflenet_v2():
    units = ShuffleV2Unit(5, 12, 2, 7), ShuffleV2Unit(12, 12, 1, 9)
    return Classifier(conv_bn(3, 5, 3, 2), *units, conv_bn(12, 13, 1), channels=13)


class ShuffleV1Unit(nn.Module):
    def __init__(self, inp, out, mid, stride):
        super().__init__()
        self.stride = stride
        self.gconv1 = conv_bn(inp, mid, 1, groups=3)
        self.dwconv = conv_bn(mid, mid, 3, stride, groups=mid, act=nn.Identity)
        self.gconv2 = conv_bn(mid, out - inp if stride == 2 else out, 1, groups=3, act=nn.Identity)

    def forward(self, x):
        out = self.gconv1(x)
        n, c, h, w = out.shape
        out = out.view(n, 3, c // 3, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
        out = self.gconv2(self.dwconv(out))
        return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), out], 1) if self.stride == 2 else x + out)


def shufflenet_v1():
    return Classifier(conv_bn(3, 6, 3, 2), ShuffleV1Unit(6, 6, 18, 1), ShuffleV1Unit(6, 15, 27, 2), channels=15)


class Fire(nn.Module):
    def __init__(self, inplanes, squeeze, expand1x1, expand3x3):
        super().__init__()
        self.squeeze = nn.Conv2d(inplanes, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand1x1, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand3x3, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.activation(self.squeeze(x))
        return torch.cat([self.activation(self.expand1x1(x)), self.activation(self.expand3x3(x))], 1)


def squeezenet():
    return nn.Sequential(
        *(nn.Conv2d(3, 7, 3, stride=2), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(7, 3, 5, 6)),
        *(nn.Dropout(0.5), nn.Conv2d(11, 4, 1), nn.ReLU(True), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()),
    )


class GhostModule(nn.Module):
    def __init__(self, inp, oup, ratio=2):
        super().__init__()
        self.oup = oup
        init = -(-oup // ratio)
        self.primary_conv = conv_bn(inp, init, 1)
        self.cheap_operation = conv_bn(init, init * (ratio - 1), 3, groups=init)

    def forward(self, x):
        x1 = self.primary_conv(x)
        x2 = self.cheap_operation(x1)
        out = torch.cat([x1, x2], dim=1)
        return out[:, : self.oup, :, :]


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth_rate, bn_size):
        super().__init__()
        self.norm1, self.relu = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, bn_size * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bn_size * growth_rate)
        self.conv2 = nn.Conv2d(bn_size * growth_rate, growth_rate, 3, padding=1, bias=False)

    def forward(self, inputs):
        x = self.conv1(self.relu(self.norm1(torch.cat(inputs, 1))))
        return F.dropout(self.conv2(self.relu(self.norm2(x))), p=0.1, training=self.training)


class DenseBlock(nn.ModuleDict):
    def __init__(self, layers, inputs, growth_rate):
        super().__init__({f"denselayer{i + 1}": DenseLayer(inputs + i * growth_rate, growth_rate, 2) for i in layers})

    def forward(self, init_features):
        features = [init_features]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 7, 3, padding=1, bias=False)
        self.denseblock1 = DenseBlock(range(2), 7, 5)
        self.transition1 = nn.Sequential(nn.BatchNorm2d(17), nn.ReLU(), nn.Conv2d(17, 8, 1), nn.AvgPool2d(2, 2))
        self.denseblock2 = DenseBlock(range(2), 8, 3)
        self.norm5, self.classifier = nn.BatchNorm2d(14), nn.Linear(14, 5)

    def forward(self, x):
        x = self.denseblock2(self.transition1(self.denseblock1(self.conv0(x))))
        x = F.adaptive_avg_pool2d(F.relu(self.norm5(x), inplace=True), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class InceptionBlock(nn.Module):
    def __init__(self, inp, n1, n3red, n3, n5red, n5, pool_features):
        super().__init__()
        self.branch1x1 = conv_bn(inp, n1, 1)
        self.branch3x3 = nn.Sequential(conv_bn(inp, n3red, 1), conv_bn(n3red, n3, 3))
        self.branch5x5 = nn.Sequential(conv_bn(inp, n5red, 1), conv_bn(n5red, n5, 5))
        self.branch_pool = conv_bn(inp, pool_features, 1)

    def forward(self, x):
        pooled = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([self.branch1x1(x), self.branch3x3(x), self.branch5x5(x), pooled], 1)


def inception():
    blocks = InceptionBlock(6, 5, 3, 7, 2, 4, 3), InceptionBlock(19, 2, 5, 4, 3, 6, 8)
    return Classifier(conv_bn(3, 6, 3, 2), *blocks, channels=20)


class DoubleConv(nn.Sequential):
    def __init__(self, inp, out, mid=None):
        super().__init__(*conv_bn(inp, mid or out), *conv_bn(mid or out, out))


class Up(nn.Module):
    def __init__(self, inp, skip, out, bilinear):
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        else:
            self.up = nn.ConvTranspose2d(inp, inp // 2 + 1, kernel_size=2, stride=2)
        self.conv = DoubleConv(skip + (inp if bilinear else inp // 2 + 1), out)

    def forward(self, x1, x2):
        x1 = self.up(x1)
        dy, dx = x2.size()[2] - x1.size()[2], x2.size()[3] - x1.size()[3]
        if dy or dx:
            x1 = F.pad(x1, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([x2, x1], dim=1))


class UNet(nn.Module):
    def __init__(self, bilinear=False):
        super().__init__()
        self.inc = DoubleConv(3, 5)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(5, 7))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(7, 11, 8))
        self.up1, self.up2 = Up(11, 7, 9, bilinear), Up(9, 5, 4, bilinear)
        self.outc = nn.Conv2d(4, 2, 1)
        self.apply(he)

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        return self.outc(self.up2(self.up1(x3, x2), x1))


class FPN(nn.Module):
    def __init__(self, channels=(5, 7, 11), inner=6, out=8):
        super().__init__()
        self.stages = nn.ModuleList(conv_bn(a, b, 3, 2) for a, b in zip((3, *channels), channels, strict=False))
        self.lateral = nn.ModuleList(nn.Conv2d(c, inner, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(inner, out, 3, padding=1) for _ in channels)

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        last = self.lateral[-1](maps[-1])
        results = [self.smooth[-1](last)]
        for i in range(len(maps) - 2, -1, -1):
            side = self.lateral[i](maps[i])
            last = side + F.interpolate(last, size=side.shape[-2:], mode="nearest")
            results.insert(0, self.smooth[i](last))
        return OrderedDict((f"p{i + 2}", result) for i, result in enumerate(results))


class ASPP(nn.Module):
    def __init__(self, inp, out, rates=(1, 2, 3)):
        super().__init__()
        self.convs = nn.ModuleList([conv_bn(inp, out, 1), *(conv_bn(inp, out, 3, dilation=r) for r in rates[1:])])
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn(inp, 4, 1))
        self.project = nn.Sequential(*conv_bn(len(self.convs) * out + 4, 9, 1), nn.Dropout(0.5))

    def forward(self, x):
        res = [conv(x) for conv in self.convs]
        res.append(F.interpolate(self.pooling(x), size=x.shape[-2:], mode="bilinear", align_corners=False))
        return self.project(torch.cat(res, dim=1))


class DeepLab(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(conv_bn(3, 6, 3, 2), conv_bn(6, 7, 3, dilation=2))
        self.aspp, self.head = ASPP(7, 5), nn.Conv2d(9, 2, 1)

    def forward(self, x):
        logits = self.head(self.aspp(self.backbone(x)))
        return {"out": F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)}


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim, hidden, layer_scale_init_value=0.3):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(layer_scale_init_value * torch.ones(dim), requires_grad=True)

    def forward(self, x):
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        x = (self.gamma * x).permute(0, 3, 1, 2)
        return shortcut + x


class LayerNorm2d(nn.Module):
    def __init__(self, channels, eps=1e-6):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x):
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


def convnext():
    return nn.Sequential(
        *(nn.Conv2d(3, 5, 2, stride=2), LayerNorm2d(5), ConvNeXtBlock(5, 13), ConvNeXtBlock(5, 13)),
        *(LayerNorm2d(5), nn.Conv2d(5, 7, 2, stride=2), ConvNeXtBlock(7, 17)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(7, eps=1e-6), nn.Linear(7, 4)),
    )


class Highway(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.plain, self.gate = nn.Conv2d(channels, channels, 3, 1, 1), nn.Conv2d(channels, channels, 3, 1, 1)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, x):
        t = torch.sigmoid(self.gate(x))
        return F.relu(self.plain(x)) * t + x * (1 - t)


class Maxout(nn.Module):
    def __init__(self, inp, out, pieces):
        super().__init__()
        self.pieces = pieces
        self.conv = nn.Conv2d(inp, out * pieces, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        n, c, h, w = x.shape
        return x.view(n, c // self.pieces, self.pieces, h, w).max(dim=2)[0]


class FiLMBlock(nn.Module):
    def __init__(self, channels, groups, condition):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, 1, 1), nn.GroupNorm(groups, channels)
        self.film = nn.Linear(condition, channels * 2)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x, cond):
        scale, shift = self.film(F.silu(cond)).chunk(2, dim=1)
        h = self.norm1(self.conv1(x)) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return x + self.conv2(F.silu(h))


class ConditionalNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.conv_in = nn.Embedding(5, 7), nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList([FiLMBlock(6, 2, 7), FiLMBlock(6, 3, 7)])
        self.norm_out, self.conv_out = nn.GroupNorm(1, 6), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x, label):
        cond = self.embed(label)
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h, cond)
        return self.conv_out(F.silu(self.norm_out(h)))


class StyleResidual(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1, padding_mode="reflect")
        self.in1 = nn.InstanceNorm2d(hidden, affine=True)
        self.conv2 = nn.Conv2d(hidden, channels, 3, padding=1, padding_mode="reflect")
        self.in2 = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x):
        return self.in2(self.conv2(F.relu(self.in1(self.conv1(x))))) + x


def style_transfer():
    return nn.Sequential(
        *(nn.ReflectionPad2d(2), nn.Conv2d(3, 5, 5), nn.InstanceNorm2d(5, affine=True), nn.ReLU()),
        *(nn.Conv2d(5, 7, 3, 2, 1), nn.InstanceNorm2d(7, affine=True), nn.ReLU(), StyleResidual(7, 11)),
        *(nn.Upsample(scale_factor=2), nn.Conv2d(7, 6, 3, padding=1), nn.InstanceNorm2d(6), nn.ReLU()),
        nn.Conv2d(6, 3, 3, padding=1),
    )


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            *(nn.Conv2d(3, 5, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.Conv2d(5, 7, 4, 2, 1, bias=False), nn.BatchNorm2d(7), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.Conv2d(7, 1, 4, 1, 0, bias=False), nn.Sigmoid()),
        )

    def forward(self, x):
        return self.main(x).view(-1, 1).squeeze(1)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(conv_bn(1, 5), nn.MaxPool2d(2), conv_bn(5, 7), nn.Flatten(), nn.Linear(7 * 16, 11))
        self.out = nn.Linear(11, 1)

    def forward(self, left, right):
        distance = torch.abs(torch.sigmoid(self.encoder(left)) - torch.sigmoid(self.encoder(right)))
        return self.out(distance)


class Autoencoder(nn.Module):
    def __init__(self, latent=5):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.to_latent, self.from_latent = nn.Linear(8 * 3 * 3, latent), nn.Linear(latent, 7 * 3 * 3)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(7, 4, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, x):
        z = self.to_latent(self.encoder(x).flatten(start_dim=1))
        return self.decoder(self.from_latent(z).view(-1, 7, 3, 3))


class VectorQuantizer(nn.Module):
    def __init__(self, num_embeddings, embedding_dim):
        super().__init__()
        self.embedding_dim = embedding_dim
        self.embedding = nn.Embedding(num_embeddings, embedding_dim)
        self.embedding.weight.data.uniform_(-1 / num_embeddings, 1 / num_embeddings)

    def forward(self, inputs):
        inputs = inputs.permute(0, 2, 3, 1).contiguous()
        flat, table = inputs.view(-1, self.embedding_dim), self.embedding.weight
        distances = flat.pow(2).sum(1, keepdim=True) + table.pow(2).sum(1) - 2 * torch.matmul(flat, table.t())
        indices = torch.argmin(distances, dim=1)
        quantized = self.embedding(indices).view(inputs.shape)
        return (inputs + (quantized - inputs).detach()).permute(0, 3, 1, 2).contiguous()


class VQVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 4, 2, 1), nn.ReLU(), nn.Conv2d(6, 7, 3, padding=1), nn.ReLU())
        self.pre_vq = nn.Conv2d(7, 5, 1)
        self.vq = VectorQuantizer(11, 5)
        self.decoder = nn.Sequential(nn.Conv2d(5, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))

    def forward(self, x):
        return self.decoder(self.vq(self.pre_vq(self.encoder(x))))


def dcgan_generator():
    return nn.Sequential(
        *(nn.ConvTranspose2d(11, 7, 4, 1, 0, bias=False), nn.BatchNorm2d(7), nn.ReLU(True)),
        *(nn.ConvTranspose2d(7, 5, 4, 2, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU(True)),
        *(nn.ConvTranspose2d(5, 3, 4, 2, 1, bias=False), nn.Tanh()),
    )


def espcn():
    return nn.Sequential(
        *(nn.Conv2d(1, 7, 5, padding=2), nn.Tanh(), nn.Conv2d(7, 5, 3, padding=1), nn.Tanh()),
        *(nn.Conv2d(5, 3 * 2**2, 3, padding=1), nn.PixelShuffle(2)),
    )


def pixel_shuffles():
    return nn.Sequential(
        *(nn.PixelUnshuffle(2), nn.Conv2d(12, 5, 3, 1, 1), nn.ReLU(), nn.Conv2d(5, 7 * 4, 3, 1, 1)),
        *(nn.PixelShuffle(2), nn.PReLU(7), nn.Conv2d(7, 3, 3, 1, 1)),
    )


def depth_multiplier():
    return nn.Sequential(
        *(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 15, 3, groups=5), nn.ReLU()),
        *(nn.Conv2d(15, 7, 1), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 16, 4)),
    )


def weight_normed():
    return nn.Sequential(
        *(weight_norm(nn.Conv2d(3, 5, 3)), nn.ELU(), nn.Conv2d(5, 7, 3), nn.ELU()),
        *(weight_norm(nn.Conv2d(7, 6, 1)), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    )


def spectral():
    return nn.Sequential(
        *(nn.Conv2d(3, 5, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(5, 7, 3, padding=1), nn.LeakyReLU(0.1)),
        *(spectral_norm(nn.Conv2d(7, 6, 4, 2, 1)), nn.LeakyReLU(0.1)),
        *(nn.Flatten(), spectral_norm(nn.Linear(6 * 16, 11)), nn.LeakyReLU(0.1)),
        *(nn.Linear(11, 13), nn.LeakyReLU(0.1), nn.Linear(13, 2)),
    )


def residual(name, grows, *args, **options):
    build, stuck = partial(ResNet, *args, **options), ends("conv1", "fc")
    return Architecture(name, build, images(3, 12, 12), weights(grows), stuck, longer=images(3, 10, 15))


def classifier(name, grows, build, stem="features.0.0"):
    stuck = ends(stem, "classifier")
    return Architecture(name, build, images(3, 12, 12), weights(grows), stuck, longer=images(3, 9, 14))


# fmt: off
ARCHITECTURES = [
    Architecture("lenet with a literal view", LeNet, images(1, 32, 32),
        grows=weights("conv1[0] conv2[1] fc1[0] fc2[1] fc2[0] fc3[1]", "conv1.bias[0]"),
        stuck=ends("conv1", "fc3") | dict.fromkeys(weights("conv2[0] fc1[1]", "conv2.bias[0]"), "as the number 400")),
    Architecture("lenet", FlattenLeNet, images(1, 24, 24), stuck=ends("conv1", "fc2", out="output"),
        grows=weights("conv1[0] conv2[0] fc1[1] fc1[0]", "conv1.bias[0] fc1.bias[0]")),
    Architecture("vgg with batch norm", VGG, images(3, 8, 8), longer=images(3, 12, 9), stuck=ends("features.0", "fc2"),
        grows=weights("features.0[0] features.1[0] features.4[0] features.7[0] fc1[1] fc1[0]")),
    Architecture("network in network", network_in_network, images(3, 9, 9), longer=images(3, 7, 11),
        grows=weights("0[0] 2[0] 4[0] 8[0] 8[1] 10[0] 12[1]"), stuck=ends("0", "12")),
    residual("resnet of basic blocks", "conv1[0] layer1.0.conv1[0] layer1.1.conv2[0] layer2.0.conv1[0] "
        "layer2.0.downsample.0[0] layer2.0.bn2[0] fc[1]", BasicBlock, (6, 10), (2, 1), stem=6),
    residual("resnet of bottlenecks", "bn1[0] layer1.0.conv2[0] layer1.0.conv3[0] layer2.1.conv1[0] fc[1]",
        Bottleneck, (4, 5), (1, 2)),
    Architecture("resnet of pre-activations", preact_resnet, images(3, 8, 8), longer=images(3, 10, 7),
        stuck=ends("0", "8"), grows=weights("0[0] 1.conv1[0] 1.conv2[0] 2.shortcut.0[0] 8[1]", "3.bn1.bias[0]")),
    residual("resnext", "conv1[0] layer1.0.conv1[0] layer1.0.conv2[0] layer1.0.conv3[0] layer2.0.conv3[1]",
        Bottleneck, (5, 7), (1, 1), groups=3),
    Architecture("wide resnet with dropout", WideResNet, images(3, 8, 8), stuck=ends("conv1", "fc"),
        grows=weights("conv1[0] block1.conv1[0] block1.conv2[0] block2.conv1[0] fc[1]")),
    residual("res2net", "conv1[0] layer1.0.conv1[0] layer1.0.convs.0[0] layer1.0.convs.1[1] layer1.0.conv3[1] "
        "layer2.0.conv3[0] fc[1]", Res2Bottleneck, (4, 5), (1, 1), strides=(1, 1)),
    residual("resnet with group norm", "conv1[0] bn1[0] layer1.1.conv1[0] layer1.1.bn2[0] fc[1]",
        BasicBlock, (6, 10), (2, 1), stem=4, norm=lambda channels: nn.GroupNorm(2, channels)),
    residual("senet", "conv1[0] layer1.0.conv1[0] layer1.0.conv2[0] layer1.0.attention.fc.0[0] "
        "layer1.0.attention.fc.0[1] layer2.0.attention.fc.2[0] fc[1]", BasicBlock, (6, 10), (2, 1), attention=SELayer),
    residual("cbam", "conv1[0] layer1.0.conv1[0] layer1.0.conv2[0] layer1.0.attention.mlp.0[0] "
        "layer2.1.attention.mlp.2[0] fc[1]", BasicBlock, (6, 10), (1, 2), attention=CBAM),
    classifier("repvgg", "features.0.rbr_dense.0[0] features.0.rbr_1x1.0[0] features.1.rbr_identity[0] "
        "features.2.rbr_dense.0[0] classifier[1]",
        lambda: Classifier(RepVGGBlock(3, 6, 2), RepVGGBlock(6, 6), RepVGGBlock(6, 11, 2), channels=11),
        "features.0.rbr_dense.0"),
    classifier("mobilenet v1", "features.0.0[0] features.1.0[0] features.1.3[0] features.2.3[0] classifier[1]",
        lambda: Classifier(conv_bn(3, 5, 3, 2), conv_dw(5, 7, 1), conv_dw(7, 11, 2), channels=11)),
    classifier("mobilenet v2", "features.0.0[0] features.1.depthwise.0[0] features.2.expand.0[0] "
        "features.2.project.0[0] features.3.depthwise.1[0] features.4.0[0]", mobilenet_v2),
    classifier("mobilenet v3", "features.0.0[0] features.1.expand.0[0] features.1.se.fc.0[0] features.2.se.fc.2[0] "
        "features.2.depthwise.0[0] features.2.project.0[0]", mobilenet_v3),
    classifier("efficientnet", "features.0.0[0] features.1.se.fc.0[0] features.1.project.0[0] features.2.expand.0[0] "
        "features.2.project.0[0] features.4.0[0]", efficientnet),
    classifier("shufflenet v2", "features.0.0[0] features.1.branch2.0[0] features.1.branch1.3[0] "
        "features.2.branch2.0[0] features.2.branch2.3[0] features.3.0[0] classifier[1]", shufflenet_v2),
    classifier("shufflenet v1 with its groups as a number", "features.0.0[0] features.1.gconv1.0[0] "
        "features.1.dwconv.0[0] features.1.gconv2.0[0] features.2.gconv2.0[1] classifier[1]", shufflenet_v1),
    classifier("inception", "features.0.0[0] features.1.branch1x1.0[0] features.1.branch3x3.0.0[0] "
        "features.1.branch_pool.0[0] features.2.branch5x5.1.0[0] features.2.branch1x1.0[1]", inception),
    Architecture("squeezenet", squeezenet, images(3, 13, 13), longer=images(3, 15, 18), stuck=ends("0", "5"),
        grows=weights("0[0] 3.squeeze[0] 3.expand1x1[0] 3.expand3x3[0] 5[1]")),
    classifier("ghostnet", "features.0.0[0] features.1.primary_conv.0[0] features.1.cheap_operation.0[0] "
        "features.2.primary_conv.0[1] classifier[1]",
        lambda: Classifier(conv_bn(3, 5, 3, 2), GhostModule(5, 8), GhostModule(8, 14), channels=14)),
    classifier("ghostnet that cuts the last channel off", "features.1.0[0] features.1.1[0] classifier[1]",
        lambda: Classifier(GhostModule(3, 7), conv_bn(7, 5), channels=5), "features.0.primary_conv.0"),
    Architecture("depthwise convolution with a multiplier", depth_multiplier, images(3, 8, 8), stuck=ends("0", "7"),
        grows=weights("0[0] 2[0] 4[1] 4[0] 7[1]", "0.bias[0] 2.bias[0]")),
    Architecture("densenet", DenseNet, images(3, 8, 8), longer=images(3, 10, 12), stuck=ends("conv0", "classifier"),
        grows=weights("conv0[0] denseblock1.denselayer1.conv2[0] denseblock1.denselayer2.conv1[0] "
            "denseblock1.denselayer2.norm1[0] transition1.2[0] transition1.2[1] classifier[1]")),
    Architecture("u-net", UNet, images(3, 8, 8), longer=images(3, 12, 16), stuck=ends("inc.0", "outc"),
        grows=weights("inc.0[0] inc.3[0] down2.1.3[0] up1.up[0] up1.up[1] up1.conv.0[1] up2.conv.3[0]")),
    Architecture("u-net with bilinear upsampling and padding", lambda: UNet(bilinear=True), images(3, 8, 8),
        grows=weights("inc.0[0] inc.3[0] down2.1.3[0] up1.conv.0[1] up2.conv.3[0]"),
        longer=images(3, 11, 13), stuck=ends("inc.0", "outc")),
    Architecture("feature pyramid", FPN, images(3, 16, 16), longer=images(3, 18, 21),
        grows=weights("stages.0.0[0] stages.1.0[0] stages.2.1[0] lateral.0[0] lateral.2[1] smooth.1[1]"),
        stuck=ends("stages.0.0", "smooth.0") | {"smooth.2.weight[0]": "output"}),
    Architecture("deeplab", DeepLab, images(3, 14, 14), longer=images(3, 11, 18), stuck=ends("backbone.0.0", "head"),
        grows=weights("backbone.0.0[0] backbone.1.0[0] aspp.convs.0.0[0] aspp.convs.2.0[0] aspp.pooling.1[0] "
            "aspp.project.0[0]")),
    Architecture("convnext", convnext, images(3, 8, 8), longer=images(3, 12, 16), stuck=ends("0", "10"),
        grows=weights("0[0] 1[0] 2.dwconv[0] 2.norm[0] 3.pwconv1[0] 5[0] 9[0] 10[1]", "2.gamma[0] 6.gamma[0]")),
    classifier("highway network", "features.0[0] features.1.plain[0] features.1.gate[0] classifier[1]",
        lambda: Classifier(nn.Conv2d(3, 5, 3), Highway(5), Highway(5), channels=5), "features.0"),
    classifier("maxout network", "features.0.conv[0] features.2.conv[1] features.2.conv[0] classifier[1]",
        lambda: Classifier(Maxout(3, 7, 2), nn.MaxPool2d(2), Maxout(7, 5, 3), channels=5), "features.0.conv"),
    Architecture("film with group norm", ConditionalNet, lambda n: (torch.randn(n, 3, 6, 6), torch.arange(n) % 5),
        grows=weights("embed[1] conv_in[0] blocks.0.norm1[0] blocks.0.film[0] blocks.0.film[1] blocks.1.conv2[0] "
            "norm_out[0] conv_out[1]"), longer=lambda n: (torch.randn(n, 3, 5, 8), torch.arange(n) % 5),
        stuck=ends("conv_in", "conv_out") | {"embed.weight[0]": "looks its units up by the data"}),
    Architecture("style transfer with instance norm", style_transfer, images(3, 8, 8), longer=images(3, 12, 6),
        grows=weights("1[0] 2[0] 4[0] 7.conv1[0] 7.in1[0] 7.in2[0] 9[0]"), stuck=ends("1", "12")),
    Architecture("espcn", espcn, images(1, 6, 6), longer=images(1, 5, 9),
        grows=weights("0[0] 2[1] 2[0] 4[1]", "0.bias[0]"), stuck=ends("0", "4", out="output|makes pixels")),
    Architecture("pixel shuffle in, pixel shuffle out", pixel_shuffles, images(3, 8, 8), longer=images(3, 6, 10),
        grows=weights("1[0] 3[1] 3[0] 5[0] 6[1]", "1.bias[0]"), stuck=ends("1", "6", "input|is a block of")),
    Architecture("dcgan generator", dcgan_generator, images(11, 1, 1), longer=images(11, 2, 3),
        grows=weights("0[1] 1[0] 3[0] 3[1] 6[0]"), stuck={"0.weight[0]": "input", "6.weight[1]": "output"}),
    Architecture("dcgan discriminator", Discriminator, images(3, 16, 16), stuck={"main.0.weight[1]": "input"},
        grows=weights("main.0[0] main.2[1] main.2[0] main.3[0] main.5[1]")),
    Architecture("siamese network", Siamese,
        lambda n: {"left": torch.randn(n, 1, 8, 8), "right": torch.randn(n, 1, 8, 8)},
        grows=weights("encoder.0.0[0] encoder.2.0[0] encoder.4[1] encoder.4[0] out[1]"),
        stuck={"encoder.0.0.weight[1]": "input", "out.weight[0]": "output"}),
    Architecture("convolutional autoencoder with a literal view", Autoencoder, images(1, 12, 12),
        grows=weights("encoder.0[0] encoder.2[0] to_latent[1] to_latent[0] from_latent[1] decoder.0[1] decoder.2[0]"),
        stuck={"encoder.0.weight[1]": "input", "decoder.0.weight[0]": "is the number 7 in the code",
            "from_latent.weight[0]": "number 3", "from_latent.bias[0]": "number 3", "decoder.2.weight[1]": "output"}),
    Architecture("vq-vae", VQVAE, images(3, 8, 8), longer=images(3, 6, 10),
        grows=weights("encoder.0[0] encoder.2[1] encoder.2[0] pre_vq[1] decoder.0[0] decoder.2[0]"),
        stuck={"encoder.0.weight[1]": "input", "vq.embedding.weight[0]": "argmin .* orders its units",
            "decoder.2.weight[1]": "output"}),
    Architecture("weight norm", weight_normed, images(3, 8, 8), longer=images(3, 6, 9),
        grows=weights("2[1] 8[1]", "0.parametrizations.weight.original0[0] 0.parametrizations.weight.original1[0] "
            "0.bias[0] 4.parametrizations.weight.original1[0]"),
        stuck={"0.parametrizations.weight.original1[1]": "input", "8.weight[0]": "output", "8.bias[0]": "output"}),
    Architecture("spectral norm", spectral, images(3, 8, 8), grows=weights("0[0] 2[1] 9[0] 11[1]", "0.bias[0]"),
        stuck=ends("0", "11") | dict.fromkeys(("4.parametrizations.weight.original[0]", "2.weight[0]"), "by power")),
    classifier("prelu", "features.0[0] features.1[0] features.2[1] features.2[0] classifier[1]",
        lambda: Classifier(nn.Conv2d(3, 5, 3), nn.PReLU(5), nn.Conv2d(5, 7, 3), nn.PReLU(), channels=7), "features.0"),
]
