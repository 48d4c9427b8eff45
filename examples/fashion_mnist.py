"""The demo's classifier: a ResNet-18 of half width for 28 x 28 grey pictures of clothes.

Use it as ``--model examples/fashion_mnist.py:build``; the weights, the preprocessing and the class names stand in
``fashion_mnist.toml`` beside this file.
"""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip


class HalfResNet18(nn.Module):
    """ResNet-18 (He et al. 2015) with half the channels, a 3 x 3 stem of stride 1 and no max-pool.

    Input float32 ``[N, 1, 28, 28]``, output logits ``[N, 10]``.
    """

    def __init__(self, classes: int = len(CLASSES), width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, width * 2, stride=2)
        self.layer3 = _stage(width * 2, width * 4, stride=2)
        self.layer4 = _stage(width * 4, width * 8, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width * 8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))


def build() -> nn.Module:
    """The network without weights, as ``--model`` wants it."""
    return HalfResNet18()
