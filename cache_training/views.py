"""Augmented views of frames. The teacher answers each view anew, so a view may change a picture's meaning."""

import torch
from torch import Tensor
from torch.nn import functional as F

#: Largest shift and largest change of scale, as a share of the picture's side.
_SHIFT, _SCALE = 0.12, 0.15
#: Largest change of brightness (of the full range) and of contrast.
_LIGHT, _CONTRAST = 0.12, 0.3
#: Share of views that stay the frame as it was: what the heads will be asked about.
_UNCHANGED = 0.25


def views(frames: Tensor, generator: torch.Generator) -> Tensor:
    """One view of each frame, uint8 ``[N, C, H, W]``: shifted, scaled, mirrored, lit; a quarter stay unchanged."""
    n = len(frames)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    scale = uniform(1 - _SCALE, 1 + _SCALE)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = scale * mirror, scale
    affine[:, :, 2] = uniform(-2 * _SHIFT, 2 * _SHIFT, 2)
    original = frames.float()
    grid = F.affine_grid(affine, list(frames.shape), align_corners=False)
    moved = F.grid_sample(original, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    lit = (moved - 128) * uniform(1 - _CONTRAST, 1 + _CONTRAST, 1, 1, 1) + 128 + uniform(-_LIGHT, _LIGHT, 1, 1, 1) * 255
    unchanged = torch.rand(n, generator=generator) < _UNCHANGED
    return torch.where(unchanged[:, None, None, None], original, lit).round().clamp(0, 255).to(torch.uint8)
