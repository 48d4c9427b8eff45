"""Augmented views of frames. The teacher answers each view anew, so a view may change a picture's meaning."""

import torch
from torch import Tensor
from torch.nn import functional as F

#: The most that a picture is shifted (as a share of its side), zoomed in, zoomed out, stretched and turned.
_SHIFT, _IN, _OUT, _ASPECT, _TURN = 0.12, 0.25, 0.15, 0.1, 0.2
#: Largest change of brightness (of the full range), of contrast, of each colour; and the range of saturation.
_LIGHT, _CONTRAST, _TINT, _SATURATION = 0.12, 0.3, 0.12, (0.5, 1.4)
#: Share of views that are the frame itself: heads will be asked about such frames.
_UNCHANGED = 0.25
#: Share of views into which another one is mixed, half of them by patch, half by blending.
_MIXED = 0.5


def make_views(frames: Tensor, generator: torch.Generator) -> Tensor:
    """One view of each frame, uint8 ``[N, C, H, W]``: moved, zoomed, turned, mirrored, lit and tinted; half are mixed.

    Mixing is MixUp (Zhang, Cisse, Dauphin, Lopez-Paz 2018) or CutMix (Yun et al. 2019). No labels are mixed: the
    teacher answers the mixed picture (Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and
    consistent").

    >>> make_views(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """
    original = frames.float()
    seen = _lit(_moved(original, generator), generator)
    unchanged = _uniform(len(frames), 0, 1, generator)[:, None, None, None] < _UNCHANGED
    return _mixed(torch.where(unchanged, original, seen), generator).round().clamp(0, 255).to(torch.uint8)


def _uniform(n: int, low: float, high: float, generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(n, *shape, generator=generator) * (high - low) + low


def _moved(frames: Tensor, generator: torch.Generator) -> Tensor:
    n, _, height, width = frames.shape
    scale = _uniform(n, 1 - _IN, 1 + _OUT, generator)
    aspect = _uniform(n, 1 - _ASPECT, 1 + _ASPECT, generator)
    turn = _uniform(n, -_TURN, _TURN, generator)
    mirror = torch.where(_uniform(n, 0, 1, generator) < 0.5, -1.0, 1.0)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0] = scale * aspect * turn.cos() * mirror
    affine[:, 0, 1] = -scale * turn.sin() * height / width
    affine[:, 1, 0] = scale * turn.sin() * mirror * width / height
    affine[:, 1, 1] = scale / aspect * turn.cos()
    affine[:, :, 2] = _uniform(n, -2 * _SHIFT, 2 * _SHIFT, generator, 2)
    grid = F.affine_grid(affine, list(frames.shape), align_corners=False)
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _lit(frames: Tensor, generator: torch.Generator) -> Tensor:
    n, channels = frames.shape[:2]
    if channels > 1:
        grey = frames.mean(1, keepdim=True)
        frames = grey + (frames - grey) * _uniform(n, *_SATURATION, generator, 1, 1, 1)
        frames = frames * _uniform(n, 1 - _TINT, 1 + _TINT, generator, channels, 1, 1)
    contrast = _uniform(n, 1 - _CONTRAST, 1 + _CONTRAST, generator, 1, 1, 1)
    return (frames - 128) * contrast + 128 + _uniform(n, -_LIGHT, _LIGHT, generator, 1, 1, 1) * 255


def _mixed(frames: Tensor, generator: torch.Generator) -> Tensor:
    n, _, height, width = frames.shape
    other = frames[torch.randperm(n, generator=generator)]
    share = _uniform(n, 0, 1, generator)
    side = (1 - share).sqrt()
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    in_rows = (rows - _uniform(n, 0, 1, generator, 1)).abs() < side[:, None] / 2
    in_columns = (columns - _uniform(n, 0, 1, generator, 1)).abs() < side[:, None] / 2
    patch = torch.where((in_rows[:, :, None] & in_columns[:, None, :])[:, None], other, frames)
    share = share[:, None, None, None]
    blend = share * frames + (1 - share) * other
    kind = _uniform(n, 0, 1, generator)[:, None, None, None]
    return torch.where(kind < _MIXED / 2, patch, torch.where(kind < _MIXED, blend, frames))
