"""Torch networks of RobustBench's layouts (names and forms of the tensors), with random weights. Written for tests."""

import torch
from torch import nn
from torch.nn import functional as F

MEAN, STD = (0.49, 0.48, 0.44), (0.25, 0.24, 0.26)


class Normalised(nn.Module):
    """`normalize`, then `model`: how RobustBench puts a normalisation in front of a network."""

    def __init__(self, model):
        super().__init__()
        self.normalize, self.model = Normalize(), model

    def forward(self, x):
        return self.model(self.normalize(x))


class Normalize(nn.Module):
    def __init__(self):
        super().__init__()
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, x):
        return (x - self.mean) / self.std


class PreActBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, activation):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
        self.activation = activation

    def forward(self, x):
        y = self.activation(self.bn1(x))
        short = self.shortcut(y) if hasattr(self, "shortcut") else x
        return self.conv2(self.activation(self.bn2(self.conv1(y)))) + short


class PreActResNet(nn.Module):
    """PreActResNet-18 at width 64."""

    def __init__(self, activation=F.relu, width=64, blocks=2):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        inputs = width
        for stage in range(4):
            outputs, layer = width * 2**stage, []
            for i in range(blocks):
                layer.append(PreActBlock(inputs, outputs, 2 if stage and not i else 1, activation))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.bn, self.linear, self.activation = nn.BatchNorm2d(inputs), nn.Linear(inputs, 10), activation

    def forward(self, x):
        x = self.conv1(x)
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        x = F.avg_pool2d(self.activation(self.bn(x)), 4)
        return self.linear(x.view(x.size(0), -1))


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, activation):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None
        self.activation = activation

    def forward(self, x):
        y = self.activation(self.bn1(x))
        short = x if self.convShortcut is None else self.convShortcut(y)
        return torch.add(short, self.conv2(F.dropout(self.activation(self.bn2(self.conv1(y))), 0.3, self.training)))


class Group(nn.Module):
    def __init__(self, name, blocks):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(*blocks))

    def forward(self, x):
        return getattr(self, self.name)(x)


class WideResNet(nn.Module):
    """WRN-`depth`-`widening`, as TRADES and most others have it."""

    def __init__(self, depth=28, widening=10, activation=F.relu):
        super().__init__()
        self.conv1, inputs = nn.Conv2d(3, 16, 3, 1, 1, bias=False), 16
        for stage in range(3):
            outputs, blocks = 16 * widening * 2**stage, []
            for i in range((depth - 4) // 6):
                blocks.append(WideBlock(inputs, outputs, 2 if stage and not i else 1, activation))
                inputs = outputs
            setattr(self, f"block{stage + 1}", Group("layer", blocks))
        self.bn1, self.fc, self.activation = nn.BatchNorm2d(inputs), nn.Linear(inputs, 10), activation

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = F.avg_pool2d(self.activation(self.bn1(x)), 8)
        return self.fc(x.view(-1, self.fc.in_features))


class DeepMindBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, activation):
        super().__init__()
        self.batchnorm_0, self.conv_0 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1, self.conv_1 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None
        self.padding, self.activation = (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1), activation

    def forward(self, x):
        y = self.activation(self.batchnorm_0(x))
        short = x if self.shortcut is None else self.shortcut(y)
        return short + self.conv_1(self.activation(self.batchnorm_1(self.conv_0(F.pad(y, self.padding)))))


class DeepMindWideResNet(nn.Module):
    """WRN as DeepMind trains it: SiLU, and 'SAME' padding at stride 2; mean and std outside of the state dict."""

    def __init__(self, depth=28, widening=10, activation=F.silu):
        super().__init__()
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.init_conv, inputs, groups = nn.Conv2d(3, 16, 3, 1, 1, bias=False), 16, []
        for stage in range(3):
            outputs, blocks = 16 * widening * 2**stage, []
            for i in range((depth - 4) // 6):
                blocks.append(DeepMindBlock(inputs, outputs, 2 if stage and not i else 1, activation))
                inputs = outputs
            groups.append(Group("block", blocks))
        self.layer, self.batchnorm = nn.Sequential(*groups), nn.BatchNorm2d(inputs)
        self.logits, self.activation = nn.Linear(inputs, 10), activation

    def forward(self, x):
        x = self.activation(self.batchnorm(self.layer(self.init_conv((x - self.mean) / self.std))))
        return self.logits(F.avg_pool2d(x, 8).flatten(1))


def scrambled(module, seed=0):
    """The module in eval mode, with BatchNorm's weights and statistics away from where they begin."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                for tensor, low, high in (
                    *((part.weight, 0.5, 1.5), (part.bias, -0.2, 0.2)),
                    *((part.running_mean, -0.2, 0.2), (part.running_var, 0.5, 1.5)),
                ):
                    tensor.uniform_(low, high, generator=draw)
    return module.eval()
