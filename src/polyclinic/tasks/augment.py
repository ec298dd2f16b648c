"""Augmentation: images and volumes turned, stretched, bent and brightened, and their masks with them.

What is moved is moved in mm: where voxels are longer along one axis than along another, a turned head stays a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

KNOTS = 16
"""Samples between two places at which a bend is drawn; it is smooth in between."""


class Augment(BaseModel):
    """How far records of training are changed at most; each number is drawn anew for each record and step.

    Args:
        turn_deg: about each axis.
        stretch: of each axis, and of all together: exp(± stretch) times as long.
        shift: of each axis, in its length.
        bend: how far, in samples, a smooth field moves them on average along each axis.
        gain: exp(± gain) times as strong.
        offset: added, in units of what is harmonised: the spread of a volume's own voxels.
        gamma: exp(± gamma) is the power of what is between the least and the largest value.
        noise: standard deviation, in the same units.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    turn_deg: float = Field(default=10.0, ge=0, le=180)
    stretch: float = Field(default=0.07, ge=0, le=1)
    shift: float = Field(default=0.05, ge=0, le=0.5)
    bend: float = Field(default=0.0, ge=0)
    gain: float = Field(default=0.15, ge=0, le=2)
    offset: float = Field(default=0.15, ge=0)
    gamma: float = Field(default=0.2, ge=0, le=2)
    noise: float = Field(default=0.07, ge=0)


def augmented(
    x: Tensor, masks: Tensor, spec: Augment, generator: torch.Generator, spacing: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Records and their masks, changed alike; beyond a record's edge there is what is at its edge, in no structure.

    Args:
        x: (m c z y x) or (m c y x) float32.
        masks: (m z y x) or (m y x) int64.
        generator: decides all.
        spacing: (m k) mm a sample in the axes' order, NaN where nobody knows; None for samples as long as wide.
    """
    grid = _grid(x, spec, generator, spacing)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    there = F.grid_sample(masks.unsqueeze(1).float(), grid, mode="nearest", align_corners=False)
    return _brightened(moved, spec, generator), there[:, 0].long()


def _drawn(generator: torch.Generator, *shape: int) -> Tensor:
    """From -1 to 1."""
    return torch.rand(*shape, generator=generator) * 2 - 1


def _grid(x: Tensor, spec: Augment, generator: torch.Generator, spacing: Tensor | None) -> Tensor:
    """(m … k) where each sample comes from, x first, from -1 to 1."""
    m, k = len(x), x.ndim - 2
    sizes = torch.tensor(x.shape[:1:-1], dtype=torch.float32)  # x first, as `grid_sample` has it
    lengths = torch.ones(m, k) if spacing is None else torch.nan_to_num(spacing.flip(1).cpu(), nan=1.0)
    half = lengths * sizes / 2
    moved = _turns(k, m, spec, generator) * torch.exp(
        _drawn(generator, m, 1, k) * spec.stretch + _drawn(generator, m, 1, 1) * spec.stretch
    )
    moved = moved / half[:, :, None] * half[:, None, :]
    shift = _drawn(generator, m, k, 1) * spec.shift * 2
    grid = F.affine_grid(torch.cat([moved, shift], 2), list(x.shape), align_corners=False)
    if spec.bend:
        knots = [max(2, n // KNOTS + 2) for n in x.shape[2:]]
        bend = torch.randn(m, k, *knots, generator=generator) * spec.bend
        smooth = F.interpolate(bend, x.shape[2:], mode="trilinear" if k == 3 else "bilinear", align_corners=True)
        grid = grid + smooth.movedim(1, -1) * 2 / sizes
    return grid.to(x.device)


def _turns(k: int, m: int, spec: Augment, generator: torch.Generator) -> Tensor:
    """(m k k) rotations: about each of three axes, one after the other, or in the plane."""
    planes = [(0, 1)] if k == 2 else [(1, 2), (0, 2), (0, 1)]
    turned = torch.eye(k).repeat(m, 1, 1)
    for one, other in planes:
        angle = _drawn(generator, m) * math.radians(spec.turn_deg)
        each = torch.eye(k).repeat(m, 1, 1)
        each[:, one, one] = each[:, other, other] = angle.cos()
        each[:, one, other], each[:, other, one] = -angle.sin(), angle.sin()
        turned = turned @ each
    return turned


def _brightened(x: Tensor, spec: Augment, generator: torch.Generator) -> Tensor:
    """Stronger or weaker, brighter or darker, with more or less contrast in the dark, and noisier."""
    one = (len(x), *[1] * (x.ndim - 1))
    powers, gains, offsets, spreads = (_drawn(generator, *one).to(x.device) for _ in range(4))
    axes = tuple(range(1, x.ndim))
    low, high = x.amin(axes, True), x.amax(axes, True)
    width = (high - low).clamp(min=1e-6)
    x = ((x - low) / width).clamp(0, 1) ** torch.exp(powers * spec.gamma) * width + low
    x = x * torch.exp(gains * spec.gain) + offsets * spec.offset
    return x + torch.randn(x.shape, generator=generator).to(x.device) * spreads.abs() * spec.noise
