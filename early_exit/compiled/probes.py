"""Does this machine compute as the one that certified? A version carries generated pictures and its logits for them.

Other processors compute int8 in other ways: some saturate sums, some have no instruction for it. The tolerance is what
the certifying machine itself shows when it runs the same pictures singly and together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: Every exit's logits, ``[N, classes]`` each, for pictures uint8 ``[N, C, h, w]``.
AllLogits = Callable[[Tensor], list[Tensor]]

_PICTURES, _CELLS = 32, 5
#: Logits may differ by so many times what the certifying machine's own differ by, and by at least this share of theirs.
_SLACK, _LEAST = 4.0, 1e-3
_PREFIX = "probe."


class ProbeFailed(RuntimeError):
    """This machine computes otherwise than the one that certified; the message says by how much."""


@dataclass(frozen=True)
class Probe:
    """P generated pictures, and every exit's logits for them."""

    pictures: Tensor
    """uint8 ``[P, C, h, w]``"""
    logits: Tensor
    """float32 ``[P, exits, classes]``"""
    tolerance: float
    """The largest difference of a logit that is as good as none."""

    @classmethod
    def make(cls, channels: int, size: tuple[int, int], run: AllLogits) -> "Probe":
        """Runs the pictures here; those whose label depends on how many run together are left out."""
        pictures = generated_pictures(channels, size)
        together, alone = _together(run, pictures), _singly(run, pictures)
        firm = (together.argmax(2) == alone.argmax(2)).all(1)
        pictures, together, alone = pictures[firm], together[firm], alone[firm]
        differs = float((together - alone).abs().max()) if len(pictures) else 0.0
        return cls(pictures, together, max(_LEAST * float(together.abs().mean()), _SLACK * differs))

    def check(self, run: AllLogits) -> None:
        """Raises :class:`ProbeFailed` where a picture gets another label here, or logits that differ by too much."""
        for found in (_together(run, self.pictures), _singly(run, self.pictures)):
            others = int((found.argmax(2) != self.logits.argmax(2)).any(1).sum())
            if others:
                raise ProbeFailed(f"{others} of {len(found)} pictures get another label")
            differs = float((found - self.logits).abs().max())
            if not differs <= self.tolerance:
                raise ProbeFailed(f"logits differ by up to {differs:.4f}, where {self.tolerance:.4f} is usual")

    def tensors(self) -> dict[str, Tensor]:
        """As a version's tensors."""
        return {
            f"{_PREFIX}pictures": self.pictures,
            f"{_PREFIX}logits": self.logits,
            f"{_PREFIX}tolerance": torch.tensor([self.tolerance], dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Probe":
        """What :meth:`tensors` gave. Raises ``KeyError``, or ``ValueError`` for tensors that are no probe."""
        pictures, logits, tolerance = (tensors[f"{_PREFIX}{name}"] for name in ("pictures", "logits", "tolerance"))
        kinds = (pictures.dtype, pictures.ndim, logits.dtype, logits.ndim, tolerance.numel())
        if kinds != (torch.uint8, 4, torch.float32, 3, 1) or not 0 < len(pictures) == len(logits) <= _PICTURES:
            raise ValueError(f"no probe has {kinds}, {len(pictures)} pictures and logits of {len(logits)}")
        return cls(pictures, logits, float(tolerance))


def generated_pictures(channels: int, size: tuple[int, int], count: int = _PICTURES) -> Tensor:
    """uint8 ``[count, channels, *size]``: soft patches of light and colour, and the same always.

    >>> generated_pictures(3, (8, 8), count=2).shape
    torch.Size([2, 3, 8, 8])
    """
    random = np.random.default_rng(0)
    cells = torch.from_numpy(random.uniform(-0.2, 1.2, (count, channels, _CELLS, _CELLS)).astype(np.float32))
    smooth = F.interpolate(cells, size=size, mode="bilinear", align_corners=True)
    grain = torch.from_numpy(random.normal(0.0, 0.03, tuple(smooth.shape)).astype(np.float32))
    return ((smooth + grain).clamp(0, 1) * 255).round().to(torch.uint8)


def _together(run: AllLogits, pictures: Tensor) -> Tensor:
    return torch.stack(run(pictures), 1)


def _singly(run: AllLogits, pictures: Tensor) -> Tensor:
    return torch.cat([torch.stack(run(picture[None]), 1) for picture in pictures])
