"""The pretrained backbones of the paper's two tasks, as the data's README describes them.

CIFAR ResNets: He, Zhang, Ren, Sun 2016, "Deep Residual Learning for Image Recognition", section 4.2.
MobileFaceNet: Chen, Liu, Gao, Han 2018, "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification".
"""

import torchvision.models
from torch import Tensor, nn
from torch.nn import functional as F


class CifarBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without weights: every other pixel, zeros for the channels that are new."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.extra = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1 or self.extra:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(x + y)


class CifarResNet(nn.Module):
    """Depth 6n + 2, widths 16, 32, 64; frames ``[N, 3, 32, 32]`` to logits ``[N, classes]``."""

    def __init__(self, n: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(n, 16, 16, stride=1)
        self.layer2 = self._stage(n, 16, 32, stride=2)
        self.layer3 = self._stage(n, 32, 64, stride=2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        rest = (CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        return nn.Sequential(CifarBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class ConvBlock(nn.Module):
    """Convolution, batch norm, PReLU where there is an activation."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, padding: int = 0,
                 groups: int = 1, linear: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.Identity() if linear else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.prelu(self.bn(self.conv(x)))
        return y


class Bottleneck(nn.Module):
    """Expand, convolve each channel, project; added to its input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.connect = stride == 1 and inputs == outputs
        inner = inputs * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.connect else y


class MobileFaceNet(nn.Module):
    """Faces ``[N, 3, 112, 96]`` to a 128-d embedding, normalised, and on to logits over known people."""

    #: expansion, channels, repeats, stride
    SETTING = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))

    def __init__(self, people: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, 64, (3, 3), 2, 1)
        self.dw_conv1 = ConvBlock(64, 64, (3, 3), 1, 1, groups=64)
        blocks, inputs = [], 64
        for expansion, outputs, repeats, stride in self.SETTING:
            for repeat in range(repeats):
                blocks.append(Bottleneck(inputs, outputs, stride if repeat == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = ConvBlock(128, 512, (1, 1))
        self.linear7 = ConvBlock(512, 512, (7, 6), groups=512, linear=True)
        self.linear1 = ConvBlock(512, 128, (1, 1), linear=True)
        self.classifier = nn.Linear(128, people)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.blocks(self.dw_conv1(self.conv1(x))))
        embedding = self.linear1(self.linear7(x)).flatten(1)
        logits: Tensor = self.classifier(F.normalize(embedding))
        return logits


def resnet18() -> nn.Module:
    """torchvision's ResNet-18 for 32×32 frames: a 3×3 first convolution of stride 1, and no pooling after it."""
    module: nn.Module = torchvision.models.resnet18(num_classes=10)
    module.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    module.maxpool = nn.Identity()
    return module


def resnet20() -> nn.Module:
    return CifarResNet(3)


def resnet56() -> nn.Module:
    return CifarResNet(9)


def mobilefacenet() -> nn.Module:
    return MobileFaceNet(62)
