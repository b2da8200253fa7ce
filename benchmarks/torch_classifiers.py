"""torchvision's classifiers in PyTorch, under its names: their state is what its files hold."""

import torch
from torch import nn
from torch.nn import functional as F

# ---- VGG ------------------------------------------------------------------------------------

VGG_STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    def __init__(self, depth=16, num_classes=1000, batch_norm=False, width=64):
        super().__init__()
        layers, before = [], 3
        for count, multiple in zip(VGG_STAGES[depth], (1, 2, 4, 8, 8), strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(before, multiple * width, 3, padding=1))
                before = multiple * width
                layers += [nn.BatchNorm2d(before)] * batch_norm
                layers.append(nn.ReLU())
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(before * 49, 64 * width),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(64 * width, 64 * width),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(64 * width, num_classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


# ---- AlexNet --------------------------------------------------------------------------------


class AlexNet(nn.Module):
    def __init__(self, num_classes=1000, shrink=1):
        super().__init__()
        a, b, c, d = (count // shrink for count in (64, 192, 384, 256))
        hidden = 4096 // shrink
        self.features = nn.Sequential(
            nn.Conv2d(3, a, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(a, b, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(d, d, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(d * 36, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


# ---- ResNet ---------------------------------------------------------------------------------


def _downsample(before, after, stride):
    if stride == 1 and before == after:
        return None
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, before, channels, stride, _):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _downsample(before, channels, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, before, channels, stride, dilation=1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = _downsample(before, 4 * channels, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


RESNET_BLOCKS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """`dilate` is torchvision's replace_stride_with_dilation."""

    def __init__(self, depth=50, num_classes=1000, width=64, dilate=(False, False, False)):
        super().__init__()
        block, counts = RESNET_BLOCKS[depth]
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before, dilation = width, 1
        for number, count in enumerate(counts):
            stride, first = (1 if number == 0 else 2), dilation
            if number and dilate[number - 1]:
                stride, dilation = 1, 2 * dilation
            channels = width * 2**number
            blocks = [block(before, channels, stride, first)]
            before = block.expansion * channels
            blocks += [block(before, channels, 1, dilation) for _ in range(count - 1)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


# ---- DenseNet -------------------------------------------------------------------------------


class DenseLayer(nn.Module):
    def __init__(self, before, growth):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class Transition(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.norm = nn.BatchNorm2d(before)
        self.conv = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2, 2)


DENSENET_LAYERS = {
    121: (32, (6, 12, 24, 16)),
    161: (48, (6, 12, 36, 24)),
    169: (32, (6, 12, 32, 32)),
    201: (32, (6, 12, 48, 32)),
}


class DenseNet(nn.Module):
    def __init__(self, depth=121, num_classes=1000, growth=None):
        super().__init__()
        usual, counts = DENSENET_LAYERS[depth]
        growth = growth or usual
        channels = 2 * growth
        parts = self.features = nn.Sequential()
        parts.add_module("conv0", nn.Conv2d(3, channels, 7, 2, 3, bias=False))
        parts.add_module("norm0", nn.BatchNorm2d(channels))
        parts.add_module("relu0", nn.ReLU())
        parts.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for number, count in enumerate(counts, 1):
            block = nn.Sequential()
            for layer in range(count):
                name = f"denselayer{layer + 1}"
                block.add_module(name, DenseLayer(channels, growth))
                channels += growth
            parts.add_module(f"denseblock{number}", block)
            if number < 4:
                parts.add_module(f"transition{number}", Transition(channels, channels // 2))
                channels //= 2
        parts.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(F.relu(self.features(x)), 1)
        return self.classifier(torch.flatten(x, 1))


# ---- GoogLeNet ------------------------------------------------------------------------------


class BasicConv2d(nn.Module):
    def __init__(self, before, after, size, **settings):
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, bias=False, **settings)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, before, one, before3, three, before5, five, pooled):
        super().__init__()
        self.branch1 = BasicConv2d(before, one, 1)
        self.branch2 = nn.Sequential(
            BasicConv2d(before, before3, 1), BasicConv2d(before3, three, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(before, before5, 1), BasicConv2d(before5, five, 3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, 1, 1, ceil_mode=True), BasicConv2d(before, pooled, 1)
        )

    def forward(self, x):
        branches = self.branch1, self.branch2, self.branch3, self.branch4
        return torch.cat([branch(x) for branch in branches], 1)


class InceptionAux(nn.Module):
    def __init__(self, before, num_classes, shrink):
        super().__init__()
        self.conv = BasicConv2d(before, 128 // shrink, 1)
        self.fc1 = nn.Linear(16 * (128 // shrink), 1024 // shrink)
        self.fc2 = nn.Linear(1024 // shrink, num_classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x):
        x = torch.flatten(self.conv(F.adaptive_avg_pool2d(x, 4)), 1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    def __init__(self, num_classes=1000, aux_logits=True, shrink=1):
        super().__init__()

        def module(*channels):
            return Inception(*(count // shrink for count in channels))

        self.conv1 = BasicConv2d(3, 64 // shrink, 7, stride=2, padding=3)
        self.conv2 = BasicConv2d(64 // shrink, 64 // shrink, 1)
        self.conv3 = BasicConv2d(64 // shrink, 192 // shrink, 3, padding=1)
        self.inception3a = module(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = module(256, 128, 128, 192, 32, 96, 64)
        self.inception4a = module(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = module(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = module(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = module(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = module(528, 256, 160, 320, 32, 128, 128)
        self.inception5a = module(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = module(832, 384, 192, 384, 48, 128, 128)
        self.aux_logits = aux_logits
        if aux_logits:
            self.aux1 = InceptionAux(512 // shrink, num_classes, shrink)
            self.aux2 = InceptionAux(528 // shrink, num_classes, shrink)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024 // shrink, num_classes)

    def forward(self, x):
        """Scores, or in training with heads (scores, of the first head, of the second head)."""
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.inception3b(self.inception3a(x)), 3, 2, ceil_mode=True)
        first = self.inception4a(x)
        second = self.inception4d(self.inception4c(self.inception4b(first)))
        x = F.max_pool2d(self.inception4e(second), 2, 2, ceil_mode=True)
        x = self.inception5b(self.inception5a(x))
        x = self.fc(self.dropout(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)))
        if self.training and self.aux_logits:
            return x, self.aux1(first), self.aux2(second)
        return x


# ---- weights --------------------------------------------------------------------------------


def randomised(network, seed=0):
    """The network with random weights and moments that keep the numbers in bounds, predicting."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(1 + 0.5 * noise.abs())
            elif value.ndim > 1:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
            else:
                value.copy_(0.1 * noise + (value.mean() > 0.5))
    return network.eval()
